"""The limit of joint training: v -> v_mm and p -> p_rel  (2306.13596, Theorem on RP).

v_mm   = argmin ||v||  s.t.  Y_i v'x_i,sel >= 1
p_rel  = argmin ||p||  s.t.  p'z_it >= 1 where sequence i supports v_mm, else >= 0
"""

from typing import NamedTuple

import numpy as np
import torch

from .._arrays import to_numpy, to_tensor
from ._solve_token_svm import TokenSVMSolution, solve_problem, solve_token_svm
from ._token_svm import ACTIVE, TokenSVM


class JointMaxMargin(NamedTuple):
    """The limit of joint training of head and prompt.

    Attributes
    ----------
    v : ndarray of shape (n_features,)
        Max-margin head of the selected tokens.
    p : ndarray of shape (n_token_features,) or None
        Direction of the attention SVM; None if infeasible.
    is_support : ndarray of bool of shape (n_samples,)
        The sequences whose selected token supports the head.
    label_svm : TokenSVMSolution
        How v was found.
    token_svm : TokenSVMSolution
        How p was found.

    Examples
    --------
    >>> from sklearn_attn.attention import solve_joint_svm
    >>> from sklearn_attn.datasets import make_joint_tokens
    >>> joint = solve_joint_svm(*make_joint_tokens(tight=True))
    >>> joint.is_support
    array([ True,  True,  True])
    """

    v: np.ndarray | None
    p: np.ndarray | None
    is_support: np.ndarray
    label_svm: TokenSVMSolution
    token_svm: TokenSVMSolution


def solve_label_svm(features, y, *, C=np.inf, sample_weight=None, tol=1e-9):
    """Find the max-margin head: min ||v|| s.t. Y_i v'x_i >= 1, without an intercept.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
        One feature vector per sequence: selected or pooled tokens.
    y : array-like of shape (n_samples,)
        Labels -1 and +1.
    C : float, default=inf
        Penalty of the squared hinge loss; infinite asks for the hard margin.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the soft margin. None means 1.
    tol : float, default=1e-9
        Relative gap at which the solution is called optimal.

    Returns
    -------
    TokenSVMSolution
        With `p` the head v, and `support` the pairs (sequence, 0).

    Raises
    ------
    ValueError
        If shapes do not fit, a label is not -1 or +1, a number is not finite, or `C`
        is not positive.

    Examples
    --------
    >>> from sklearn_attn.attention import solve_label_svm
    >>> solve_label_svm([[3.0, 2.0], [3.0, -2.0]], [1, -1]).support
    array([[0, 0],
           [1, 0]])
    """
    features = to_tensor(features, dtype=torch.float64)
    y = to_tensor(y, device=features.device, dtype=torch.float64)
    if features.ndim != 2 or y.shape != features.shape[:1] or 0 in features.shape:
        raise ValueError(
            "features must have shape (n_samples, n_features) and y (n_samples,); got "
            f"{tuple(features.shape)} and {tuple(y.shape)}."
        )
    if not (y.abs() == 1).all() or not features.isfinite().all():
        raise ValueError("y must hold -1 and +1 only, and features finite numbers.")
    weight = torch.ones_like(y)
    if sample_weight is not None:
        weight = to_tensor(sample_weight, device=y.device, dtype=y.dtype)
    if weight.shape != y.shape or not ((weight >= 0) & weight.isfinite()).all():
        raise ValueError("sample_weight must hold a finite weight >= 0 per sample.")
    problem = TokenSVM(
        gaps=(y[:, None] * features)[:, None],
        constrained=(weight > 0)[:, None],
        wanted=torch.ones_like(y),
        weight=weight,
    )
    return solve_problem(problem, C=C, loss="squared_hinge", tol=tol, max_iter=1000)


def solve_joint_svm(X, y, selected, *, keys=None, relax=True, mask=None):
    """Find where joint training of head and prompt goes, for a selection of tokens.

    First the max-margin head of the selected tokens, then the attention SVM, in which
    sequences that do not support the head need only `p'(k_selected - k_t) >= 0`.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_tokens, n_features)
        The tokens (values).
    y : array-like of shape (n_samples,)
        Labels -1 and +1.
    selected : array-like of int of shape (n_samples,)
        Index of the selected token in each sequence.
    keys : array-like of shape (n_samples, n_tokens, n_token_features), default=None
        The keys; None takes the tokens themselves.
    relax : bool, default=True
        Whether to relax sequences that do not support the head (p_rel); False gives
        p_mm.
    mask : array-like of bool of shape (n_samples, n_tokens), default=None
        True where there is a token.

    Returns
    -------
    JointMaxMargin
        Head `v`, direction `p`, and how they were found. Without a separating head, `v`
        is None, and no sequence is relaxed.

    Raises
    ------
    ValueError
        If shapes do not fit, a label is not -1 or +1, or `selected` names no token.

    References
    ----------
    .. [1] Tarzanagh, Li, Zhang and Oymak, "Max-Margin Token Selection in Attention
           Mechanism", arXiv:2306.13596.

    Examples
    --------
    >>> from sklearn_attn.attention import solve_joint_svm
    >>> from sklearn_attn.datasets import make_joint_tokens
    >>> X, y, selected = make_joint_tokens(tight=False)
    >>> joint = solve_joint_svm(X, y, selected)
    >>> joint.is_support
    array([ True,  True, False])
    """
    X, y = np.asarray(to_numpy(X), dtype=float), np.asarray(to_numpy(y), dtype=float)
    selected = np.asarray(to_numpy(selected))
    if X.ndim != 3 or selected.shape != X.shape[:1]:
        raise ValueError(
            "X must have shape (n_samples, n_tokens, n_features) and selected "
            f"(n_samples,); got {X.shape} and {selected.shape}."
        )
    if (
        selected.dtype.kind not in "iu"
        or not np.isin(selected, range(X.shape[1])).all()
    ):
        raise ValueError(f"selected must hold integers in 0..{X.shape[1] - 1}.")
    features = X[np.arange(len(X)), selected]
    label_svm = solve_label_svm(features, y)
    is_support = np.ones(len(y), dtype=bool)
    if label_svm.p is not None:
        is_support = y * (features @ label_svm.p) <= 1.0 + ACTIVE
    token_svm = solve_token_svm(
        X if keys is None else keys,
        selected,
        relaxed=~is_support if relax else None,
        mask=mask,
    )
    return JointMaxMargin(label_svm.p, token_svm.p, is_support, label_svm, token_svm)
