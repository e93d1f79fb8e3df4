"""AttentionSVMClassifier: f(X) = v'X' softmax(X p) + b, refitted by two SVMs.

Fit, per class against the rest (2306.13596; the algorithm is specified in the user
guide): the ridge path of L(v, b, p) gives a prompt; the prompt selects a token in each
sequence; the attention SVM of this selection gives the direction of the prompt, the
label SVM of the pooled tokens the head.
"""

import warnings
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from .._arrays import (
    cpu_generator,
    few_threads,
    follow,
    pack_state,
    to_numpy,
    to_tensor,
    unpack_state,
)
from .._compat import (
    CallbackSupportMixin,
    Interval,
    StrOptions,
    check_same_namespace,
    fit_context,
    with_callbacks,
)
from .._validation import (
    Tokens,
    check_class_weight,
    check_classes,
    check_tokens,
    check_weights,
    unharmed,
)
from . import _token_methods as methods
from ._attention_svm import attention_svm, first_token
from ._erm import LOSSES
from ._softmax import attention_weights

_OF_THE_REFIT = (
    "attention_svm_coef_",
    "attention_margin_",
    "support_",
    "dual_coef_",
    "n_support_",
    "separable_",
)


class AttentionSVMClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """Linear classifier on tokens that are pooled by max-margin attention.

    Each sample is a sequence of tokens, of which few matter: a bag of images, a series
    of windows, a row of feature tokens. A prompt p weighs the tokens by softmax, a head
    v reads the class from their weighted mean. The direction of the prompt is that of
    an SVM which separates the tokens worth reading from all others [1]_; it is what
    gradient descent on softmax attention converges to. The support vectors of this
    second SVM, the support tokens, say which tokens decided it.

    Read more in the :doc:`user guide </user_guide/attention_svm>`.

    Parameters
    ----------
    n_tokens : int, default=1
        Number of tokens in each row of a 2-D X, laid end to end. Ignored where X is
        3-D or a list of sequences. A single token makes the model a
        :class:`~sklearn.svm.LinearSVC`.
    C : float, default=1.0
        Penalty of the head's squared hinge loss, as in :class:`~sklearn.svm.LinearSVC`.
        Infinite asks for the hard label margin.
    attention_C : float, default=1.0
        Penalty of the attention SVM for each token that comes too close to the selected
        one. Infinite asks for the hard margin; where that is infeasible, a warning says
        so and the soft margin is used.
    solver : {"path", "ngd", "alternate"}, default="path"
        How the prompt is found that selects the tokens. "path" minimises the penalised
        risk along `attention_reg`, jointly in head and prompt; "ngd" runs normalised
        gradient descent on both, as in the paper; "alternate" alternates head, best
        token, and prompt, as MI-SVM does.
    refit : {"svm", None}, default="svm"
        Whether the direction of the prompt and the head are refitted by the two SVMs.
        None keeps what `solver` found; the attributes of the attention SVM are then
        not set.
    pooling : {"soft", "hard"}, default="soft"
        Whether tokens are averaged with their attention weights, or the token with the
        largest weight is taken alone.
    loss : {"logistic", "exponential", "linear"}, default="logistic"
        Loss that `solver` minimises.
    attention_reg : sequence of float, default=(1e-1, 1e-2, 1e-3, 1e-4)
        Ridges of the prompt that `solver="path"` visits in turn. The last one decides
        how sharp the attention is; the larger ones lead there.
    head_reg : float, default=1e-3
        Ridge of the head in `solver="path"`.
    relax_non_support : bool, default=False
        Whether sequences whose selected token does not support the head need only keep
        their order in the attention SVM (margin 0 instead of 1): the limit of joint
        training.
    fit_intercept : bool, default=True
        Whether the head has an intercept.
    n_init : int, default=1
        Number of starts of `solver="path"`. The first one follows `attention_reg` from
        zero; the others start at random prompts, at the last of `attention_reg`. The
        lowest objective wins.
    max_iter : int, default=1000
        Limit of iterations: per entry of `attention_reg` for "path", in all otherwise.
        The steps of "ngd", which has no minimum to reach.
    tol : float, default=1e-6
        `solver="path"` stops where no entry of the gradient is larger; "ngd" early,
        where a step turns prompt and head by less.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as in :class:`~sklearn.svm.LinearSVC`.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    dtype : {"auto", "float64", "float32"}, default="auto"
        Precision. "auto" is float64 unless X is float32 or the device has no float64.
        The SVMs are always solved in float64.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts that `n_init` asks for.
    verbose : int, default=0
        Print a line per stage of the path if 1, per iteration if larger.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels. Below, `k` is 1 for two classes, else the number of classes,
        each against the rest.
    coef_ : ndarray of shape (k, n_token_features)
        Head v.
    intercept_ : ndarray of shape (k,)
        Intercept of the head.
    attention_coef_ : ndarray of shape (k, n_token_features)
        Prompt p used in prediction. Its norm is the inverse temperature of the
        attention.
    attention_svm_coef_ : ndarray of shape (k, n_token_features)
        Solution of the attention SVM, with margin 1. Only with `refit="svm"`.
    selected_tokens_ : ndarray of shape (n_samples, k)
        Index of the token that the search selects in each training sequence: the one
        that the attention SVM separates from the others.
    support_ : ndarray of shape (n_support, 2)
        Support tokens, as pairs (sequence, token), class after class. Only with
        `refit="svm"`.
    dual_coef_ : ndarray of shape (n_support,)
        Multipliers of the support tokens: `attention_svm_coef_` is the sum of them
        times (selected token - support token). Only with `refit="svm"`.
    n_support_ : ndarray of shape (k,)
        Number of support tokens of each class. Only with `refit="svm"`.
    attention_margin_ : ndarray of shape (k,)
        1 / ||attention_svm_coef_||. Only with `refit="svm"`.
    label_margin_ : ndarray of shape (k,)
        1 / ||coef_||.
    separable_ : ndarray of bool of shape (k,)
        Whether the attention SVM ranks every selected token first in its sequence.
        Only with `refit="svm"`.
    loss_curve_ : list of float, or list of lists
        Objective after each iteration of `solver`, the final polish of "path" not
        counted; a list for each class if `k > 1`. Empty where there is one token only.
    n_iter_ : int
        Iterations of `solver`, for the class that took most; at least 1.
    n_token_features_ : int
        Number of features per token.
    n_features_in_ : int
        Number of tokens times `n_token_features_`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names for all of them.

    See Also
    --------
    solve_token_svm : The attention SVM alone.
    sklearn_attn.preprocessing.FeatureTokenizer : Makes tokens of a table's columns.

    Notes
    -----
    Bags and sequences with a few telling tokens are what the model is for. Where the
    evidence is spread over all tokens, mean pooling is at least as good. The objective
    is not convex: the selected tokens are optimal for the head locally, not always
    globally.

    Scale the features first: ridges and penalties have units.

    An iteration costs about `n_samples * n_tokens * n_token_features` operations, and
    the end of the search `n_token_features ** 2` times `n_samples * n_tokens`, and
    `n_token_features ** 3`, a few times. Besides X, memory holds about three arrays of
    its size in float64.

    Fits with sample weights equal fits with repeated samples to 1e-7, except for
    `solver="ngd"`, whose steps of constant length amplify rounding.

    References
    ----------
    .. [1] Tarzanagh, Li, Zhang and Oymak, "Max-Margin Token Selection in Attention
           Mechanism", arXiv:2306.13596.

    Examples
    --------
    >>> from sklearn_attn.attention import AttentionSVMClassifier
    >>> from sklearn_attn.datasets import make_digit_bags
    >>> X, y = make_digit_bags(200, digits=(3, 8), random_state=0)
    >>> X_test, y_test = make_digit_bags(200, digits=(3, 8), subset="test",
    ...                                  random_state=1)
    >>> classifier = AttentionSVMClassifier().fit(X, y)
    >>> classifier.score(X_test, y_test) > 0.8
    True
    >>> classifier.attention(X_test).shape
    (200, 10)
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_tokens": [Interval(Integral, 1, None, closed="left")],
        "C": [Interval(Real, 0, None, closed="right")],
        "attention_C": [Interval(Real, 0, None, closed="right")],
        "solver": [StrOptions({"path", "ngd", "alternate"})],
        "refit": [StrOptions({"svm"}), None],
        "pooling": [StrOptions({"soft", "hard"})],
        "loss": [StrOptions(set(LOSSES))],
        "attention_reg": ["array-like"],
        "head_reg": [Interval(Real, 0, None, closed="left")],
        "relax_non_support": ["boolean"],
        "fit_intercept": ["boolean"],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "device": [str],
        "dtype": [StrOptions({"auto", "float64", "float32"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _doc_link_module = "sklearn_attn"
    _doc_link_template = (
        "https://sklearn-attn.readthedocs.io/en/stable/generated/"
        "{estimator_module}.{estimator_name}.html"
    )

    def __init__(
        self,
        *,
        n_tokens=1,
        C=1.0,
        attention_C=1.0,
        solver="path",
        refit="svm",
        pooling="soft",
        loss="logistic",
        attention_reg=(1e-1, 1e-2, 1e-3, 1e-4),
        head_reg=1e-3,
        relax_non_support=False,
        fit_intercept=True,
        n_init=1,
        max_iter=1000,
        tol=1e-6,
        class_weight=None,
        device="cpu",
        dtype="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_tokens = n_tokens
        self.C = C
        self.attention_C = attention_C
        self.solver = solver
        self.refit = refit
        self.pooling = pooling
        self.loss = loss
        self.attention_reg = attention_reg
        self.head_reg = head_reg
        self.relax_non_support = relax_non_support
        self.fit_intercept = fit_intercept
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.class_weight = class_weight
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    @unharmed
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Fit the classifier.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_tokens * n_token_features) or \
                (n_samples, n_tokens, n_token_features), or list of sequences
            The sequences: rows of `n_tokens` tokens laid end to end, a 3-D array, or a
            list of arrays of shape (n_tokens_i, n_token_features). A token whose
            features are all NaN is padding.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples. None weighs all the same.

        Returns
        -------
        self : AttentionSVMClassifier
            The fitted classifier.

        Raises
        ------
        ValueError
            If n_tokens does not divide the number of columns, a token is partly NaN, a
            sequence has no token, X is infinite somewhere, y has one class only, a
            ridge is negative, or the device does not exist.

        Warns
        -----
        ConvergenceWarning
            If "path" or "alternate" reached `max_iter`, or a hard margin is infeasible.
        """
        ridges = _check_ridges(self.attention_reg)
        tokens, labels = check_tokens(self, X, y, reset=True)
        weight = check_weights(sample_weight, len(tokens.values))
        rows = np.flatnonzero(weight)
        self.n_token_features_ = tokens.values.shape[2]
        self.classes_, codes = check_classes(self, labels, weight)
        problems = _against_the_rest(
            self.class_weight, self.classes_, codes[rows], weight[rows]
        )
        if self.loss == "linear" and not (self.head_reg > 0 and min(ridges) > 0):
            raise ValueError(
                "loss='linear' has no lower bound without ridges; head_reg and every "
                "entry of attention_reg must be positive."
            )
        found = []
        # nothing is drawn, not even from the global generator, unless it is needed
        generator = cpu_generator(self.random_state) if self.n_init > 1 else None
        context = self._init_callback_context(max_subtasks=len(problems))
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        kept = tokens if len(rows) == len(weight) else _take(tokens, rows)
        with few_threads(kept.values.numel()):
            for label, sign, sign_weight in problems:
                task = context.subcontext(task_name=f"class {label}", max_subtasks=None)
                task.call_on_fit_task_begin(estimator=self, X=X, y=y)
                report = _Report(self, (X, y), task, found, len(problems))
                solution = attention_svm(
                    kept,
                    to_tensor(sign, device=kept.values.device, dtype=kept.values.dtype),
                    to_tensor(
                        sign_weight, device=kept.values.device, dtype=kept.values.dtype
                    ),
                    C=self.C,
                    attention_C=self.attention_C,
                    solver=self.solver,
                    refit=self.refit,
                    pooling=self.pooling,
                    loss=self.loss,
                    attention_reg=ridges,
                    head_reg=self.head_reg,
                    relax_non_support=self.relax_non_support,
                    fit_intercept=self.fit_intercept,
                    n_init=self.n_init,
                    max_iter=self.max_iter,
                    tol=self.tol,
                    generator=generator,
                    on_stage=report.stage,
                    on_iteration=report.iteration,
                )
                report.end()
                self._warn(solution)
                found.append(solution)
                task.call_on_fit_task_end(estimator=self, X=X, y=y)
        for name in _OF_THE_REFIT:
            vars(self).pop(name, None)  # of an earlier fit, with other parameters
        for name, value in self._attributes(found, tokens, rows).items():
            setattr(self, name, value)
        follow_X = follow(X)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, follow_X(value))
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    def _attributes(self, found, tokens, rows):
        """Collect the fitted attributes of one or several binary problems, in NumPy."""
        dtype = to_numpy(tokens.values[:0]).dtype

        def stack(values):
            return np.stack([np.asarray(value, dtype=dtype) for value in values])

        svms = [solution.value for solution in found]
        attributes = {
            "coef_": stack([svm.head for svm in svms]),
            "intercept_": stack([svm.intercept for svm in svms]),
            "attention_coef_": stack([svm.prompt for svm in svms]),
            "n_iter_": max(1, max(solution.n_iter for solution in found)),
        }
        curves = [solution.history["objective"] for solution in found]
        attributes["loss_curve_"] = curves if len(curves) > 1 else curves[0]
        search = to_tensor(
            np.stack([svm.search_prompt for svm in svms], 1),
            device=tokens.values.device,
            dtype=tokens.values.dtype,
        )
        attributes["selected_tokens_"] = to_numpy(first_token(*tokens, search))
        with np.errstate(divide="ignore"):
            attributes["label_margin_"] = 1 / np.linalg.norm(
                attributes["coef_"], axis=1
            )
        if self.refit is None:
            return attributes
        token_svms = [svm.token_svm for svm in svms]
        supports = [
            np.stack([rows[s.support[:, 0]], s.support[:, 1]], 1) for s in token_svms
        ]
        return attributes | {
            "attention_svm_coef_": stack([s.p for s in token_svms]),
            "attention_margin_": stack([s.margin for s in token_svms]),
            "support_": np.concatenate(supports),
            "dual_coef_": np.concatenate([s.dual for s in token_svms]).astype(dtype),
            "n_support_": np.array([len(s.dual) for s in token_svms]),
            "separable_": np.array([svm.separable for svm in svms]),
        }

    def _warn(self, solution):
        """Say what did not work out, and what to change."""
        if not solution.converged:
            warnings.warn(
                f"solver={self.solver!r} did not converge in {solution.n_iter} "
                f"iterations (max_iter={self.max_iter}). Increase max_iter, or tol, or "
                "scale the features.",
                ConvergenceWarning,
                stacklevel=2,
            )
        for name, svm in solution.value.stalled:
            warnings.warn(
                f"The SVM of {name}={getattr(self, name)} is solved to a relative gap "
                f"of {svm.gap:.1e} only. Decrease {name}, or scale the features.",
                ConvergenceWarning,
                stacklevel=2,
            )
        for name, certificate in solution.value.infeasible:
            warnings.warn(
                f"The hard margin that {name}=inf asks for is infeasible: "
                f"{len(certificate.dual)} constraints contradict each other (a convex "
                f"combination of them has length {certificate.gap:.1e}, relative to "
                f"their own). The soft margin with {name}=1.0 is used instead.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _pooling_weights(self, X, method):
        """Return tokens, the prompts as columns, and the weights to pool with."""
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="coef_", method=method)
        tokens, _ = check_tokens(self, X, reset=False)
        prompts = self._columns(self.attention_coef_, tokens)
        if self.pooling == "hard":
            best = first_token(*tokens, prompts)[:, None]
            weights = torch.zeros_like(tokens.values @ prompts).scatter_(1, best, 1.0)
        else:
            weights = attention_weights(tokens.values @ prompts, tokens.mask)
        return tokens, weights

    @staticmethod
    def _columns(coef, tokens):
        """Bring fitted vectors, one per row, to the tokens' device as columns."""
        return to_tensor(coef, device=tokens.values.device, dtype=tokens.values.dtype).T

    def _answer(self, X, result):
        """Return the result as X came, without the class axis if there is one only."""
        result = to_numpy(result)
        return follow(X)(result[..., 0] if self.coef_.shape[0] == 1 else result)

    def decision_function(self, X):
        """Score the classes: the head applied to the pooled tokens.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in_) or \
                (n_samples, n_tokens, n_token_features), or list of sequences
            The sequences. In 3-D or as a list they may have any number of tokens.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            Positive for `classes_[1]` where there are two classes; else one column per
            class.

        Raises
        ------
        ValueError
            If tokens have another number of features than in `fit`, one is partly NaN,
            or a sequence has none.
        """
        tokens, weights = self._pooling_weights(X, "decision_function")
        scores = tokens.values @ self._columns(self.coef_, tokens)  # (n, T, k)
        b = to_tensor(self.intercept_, device=scores.device, dtype=scores.dtype)
        return self._answer(X, (weights * scores).sum(1) + b)

    def predict(self, X):
        """Predict the class of each sequence.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in_) or \
                (n_samples, n_tokens, n_token_features), or list of sequences
            The sequences.

        Returns
        -------
        ndarray of shape (n_samples,)
            The class labels.
        """
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="coef_", method="predict")
        decision = to_numpy(self.decision_function(X))
        codes = (decision > 0).astype(int) if decision.ndim == 1 else decision.argmax(1)
        return follow(X)(to_numpy(self.classes_)[codes])

    score = methods.accuracy

    def attention(self, X):
        """Return the weight of each token in the pooled token.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in_) or \
                (n_samples, n_tokens, n_token_features), or list of sequences
            The sequences.

        Returns
        -------
        ndarray of shape (n_samples, n_tokens) or (n_samples, n_tokens, n_classes)
            Weights that sum to 1 over the tokens, exactly 0 on padding. With more than
            two classes, each has its own.
        """
        return self._answer(X, self._pooling_weights(X, "attention")[1])

    def select_tokens(self, X):
        """Return the token that weighs most in each sequence.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in_) or \
                (n_samples, n_tokens, n_token_features), or list of sequences
            The sequences.

        Returns
        -------
        ndarray of int of shape (n_samples,) or (n_samples, n_classes)
            Positions; the first one of equals.
        """
        tokens, _ = self._pooling_weights(X, "select_tokens")
        prompts = self._columns(self.attention_coef_, tokens)
        return self._answer(X, first_token(*tokens, prompts))

    def token_scores(self, X):
        """Return the evidence of each token: the head applied to it alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in_) or \
                (n_samples, n_tokens, n_token_features), or list of sequences
            The sequences.

        Returns
        -------
        ndarray of shape (n_samples, n_tokens) or (n_samples, n_tokens, n_classes)
            Scores without the intercept; NaN on padding. The decision function is their
            mean with the attention weights, plus the intercept.
        """
        tokens, _ = self._pooling_weights(X, "token_scores")
        scores = tokens.values @ self._columns(self.coef_, tokens)
        if tokens.mask is not None:
            scores = scores.masked_fill(~tokens.mask[..., None], torch.nan)
        return self._answer(X, scores)

    def pool(self, X):
        """Return the pooled token of each sequence: the mean with attention weights.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in_) or \
                (n_samples, n_tokens, n_token_features), or list of sequences
            The sequences.

        Returns
        -------
        ndarray of shape (n_samples, n_token_features) or \
                (n_samples, n_token_features, n_classes)
            What the head reads.
        """
        tokens, weights = self._pooling_weights(X, "pool")
        return self._answer(X, torch.einsum("ntk,ntd->ndk", weights, tokens.values))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.n_tokens > 1
        tags.array_api_support = True
        return tags

    def __getstate__(self):
        return pack_state(super().__getstate__())

    def __setstate__(self, state):
        super().__setstate__(unpack_state(self, state))


class _Report:
    """Tells scikit-learn's callbacks of one binary problem: stages, and iterations."""

    def __init__(self, estimator, data, task, done, n_problems):
        self.estimator, self.data, self.task = estimator, data, task
        self.done, self.n_problems = done, n_problems
        self.stage_task = None

    def stage(self, number):
        """Begin a stage; each is a loop of iterations of its own."""
        self.end()
        self.number = number
        self.stage_task = self.task.subcontext(
            task_name="stage", max_subtasks=self.estimator.max_iter
        )
        self._call("call_on_fit_task_begin", self.stage_task)

    def iteration(self, v, b, p, curve):
        """Report an iteration; return whether a callback wants the stage to stop."""
        if self.estimator.verbose > 1:
            print(f"stage {self.number}, iteration {len(curve)}: {curve[-1]:.6g}")
        step = self.stage_task.subcontext(task_name="iteration")
        self._call("call_on_fit_task_begin", step)
        return self._call(
            "call_on_fit_task_end",
            step,
            reconstruction_attributes=lambda: self._so_far(v, b, p, curve),
        )

    def end(self):
        """End the stage that runs, if one does."""
        if self.stage_task is not None:
            self._call("call_on_fit_task_end", self.stage_task)
            if self.estimator.verbose == 1:
                print(f"stage {self.number} done")
            self.stage_task = None

    def _call(self, hook, task, **kwargs):
        X, y = self.data
        return getattr(task, hook)(estimator=self.estimator, X=X, y=y, **kwargs)

    def _so_far(self, v, b, p, curve):
        """Return what a copy needs to predict as if the fit had ended here."""
        rows = [(s.value.head, s.value.intercept, s.value.prompt) for s in self.done]
        rows.append((to_numpy(v), b, to_numpy(p)))
        missing = self.n_problems - len(rows)  # classes to come: always refused
        rows += [(np.zeros(len(p)), -np.inf, np.zeros(len(p)))] * missing
        coef, intercept, prompt = zip(*rows)
        put = follow(self.data[0])
        return {
            "coef_": put(np.stack(coef)),
            "intercept_": put(np.array(intercept)),
            "attention_coef_": put(np.stack(prompt)),
            "loss_curve_": list(curve),
            "n_iter_": len(curve),
        }


def _check_ridges(attention_reg):
    """Return the ridges as a list of floats."""
    message = (
        "attention_reg must hold at least one ridge, each a finite number that is not "
        f"negative; got {attention_reg!r}."
    )
    try:
        ridges = [float(ridge) for ridge in attention_reg]
    except (TypeError, ValueError):
        raise ValueError(message) from None
    if not ridges or min(ridges) < 0 or not np.isfinite(ridges).all():
        raise ValueError(message)
    return ridges


def _take(tokens, rows):
    """Return some of the sequences."""
    rows = to_tensor(rows, device=tokens.values.device)
    mask = None if tokens.mask is None else tokens.mask[rows]
    return Tokens(tokens.values[rows], mask)


def _against_the_rest(class_weight, classes, codes, weight):
    """Pose one binary problem, or one per class: (label, signs, sample weights)."""
    per_class = check_class_weight(class_weight, classes, codes, weight)
    if len(classes) == 2:
        sign = np.where(codes == 1, 1.0, -1.0)
        return [(classes[1], sign, weight * per_class[codes])]
    return [
        # as liblinear weighs one class against the rest: the rest weighs 1
        (label, np.where(codes == c, 1.0, -1.0), weight * np.where(codes == c, w, 1.0))
        for c, (label, w) in enumerate(zip(classes, per_class))
    ]
