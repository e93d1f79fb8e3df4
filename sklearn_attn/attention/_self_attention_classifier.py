"""SelfAttentionClassifier: f_k(X) = sum_s w_k'X'softmax(X A'x_s) / T  (2306.03435)."""

from numbers import Integral, Real
from typing import ClassVar

from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)

from .._compat import CallbackSupportMixin, Interval, StrOptions
from . import _token_methods as methods
from ._baselines import learn_self_attention
from ._token_attention import self_attention


class SelfAttentionClassifier(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    ClassifierMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Self-attention: tokens attend to each other, and the mean of them is read.

    Every token is a query: it weighs all tokens by softmax of ``X A' x``, and what the
    queries of a sequence find is averaged.

    It is one of the models that :class:`PromptAttention` is compared with [1]_, and has
    the same methods.

    Read more in the :doc:`user guide </user_guide/prompt_attention>`.

    Parameters
    ----------
    n_tokens : int, default=1
        Number of tokens in each row of a 2-D X, laid end to end. Ignored where X is
        3-D or a list of sequences.
    alpha_head : float, default=1e-2
        Ridge of the head, in units of the standardised tokens.
    alpha_attention : float, default=0.3
        Ridge of the attention matrix, in units of the standardised tokens.
    fit_intercept : bool, default=True
        Whether the head has an intercept. If not, tokens are not centred either.
    standardize : {"global", "feature", None}, default="global"
        Whether tokens are divided by one standard deviation, over all features, which
        keeps their geometry; each feature by its own; or not at all.
    max_iter : int, default=1000
        Limit of L-BFGS iterations.
    tol : float, default=1e-6
        L-BFGS stops where no entry of the gradient is larger.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as in :class:`~sklearn.linear_model.LogisticRegression`.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    dtype : {"auto", "float64", "float32"}, default="auto"
        Precision. "auto" is float64 unless X is float32 or the device has no float64.
    verbose : int, default=0
        Whether to print a line per iteration.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels. Below, `k` is 1 for two classes, else the number of classes.
    key_query_ : ndarray of shape (n_token_features, n_token_features)
        Matrix A of the attention, one for all classes: token s attends to the others by
        ``softmax((X - mean_) @ A.T @ (x_s - mean_))``.
    coef_ : ndarray of shape (k, n_token_features)
        Heads w, in the units of X.
    intercept_ : ndarray of shape (k,)
        Intercepts of the heads.
    mean_ : ndarray of shape (n_token_features,)
        Mean token that is subtracted before attention is paid; zero without intercept.
    scale_ : ndarray of shape (n_token_features,)
        What tokens were divided by.
    loss_ : float
        Penalised logistic risk of the result.
    loss_curve_ : list of float
        Objective after each iteration of L-BFGS. A last polish is not counted.
    n_iter_ : int
        Iterations of L-BFGS; at least 1.
    converged_ : bool
        Whether they were enough.
    n_tokens_ : int
        Number of tokens of a sequence in `fit`, with padding.
    n_token_features_ : int
        Number of features per token.
    n_features_in_ : int
        Number of tokens times `n_token_features_`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names for all of them.

    See Also
    --------
    PromptAttention : Softmax attention by a trained prompt.

    Notes
    -----
    The objective is not convex; the start is the mean-token model with a gradient step
    in A, of the best of some lengths. An iteration costs some
    ``n_samples * n_tokens**2 * n_token_features`` operations; the tables of attention
    are made for some sequences at a time.

    References
    ----------
    .. [1] Oymak, Rawat, Soltanolkotabi and Thrampoulidis, "On the Role of Attention in
           Prompt-tuning", ICML 2023, arXiv:2306.03435.

    Examples
    --------
    >>> from sklearn_attn.attention import SelfAttentionClassifier
    >>> from sklearn_attn.datasets import make_digit_needles
    >>> X, y = make_digit_needles(300, digits=(3, 8), random_state=0)
    >>> X_test, y_test = make_digit_needles(300, digits=(3, 8), subset="test",
    ...                                     random_state=0)
    >>> SelfAttentionClassifier().fit(X, y).score(X_test, y_test) > 0.8
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_tokens": [Interval(Integral, 1, None, closed="left")],
        "alpha_head": [Interval(Real, 0, None, closed="left")],
        "alpha_attention": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "standardize": [StrOptions({"global", "feature"}), None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "device": [str],
        "dtype": [StrOptions({"auto", "float64", "float32"})],
        "verbose": ["verbose"],
    }
    _doc_link_module = "sklearn_attn"
    _doc_link_template = methods.DOC_LINK_TEMPLATE
    _attention = staticmethod(self_attention)
    _attention_attribute = "key_query_"
    _centred = True
    _check = methods.check_nothing
    _learn = methods.learn_baseline(
        learn_self_attention, "alpha_head", "alpha_attention"
    )

    def __init__(
        self,
        *,
        n_tokens=1,
        alpha_head=1e-2,
        alpha_attention=0.3,
        fit_intercept=True,
        standardize="global",
        max_iter=1000,
        tol=1e-6,
        class_weight=None,
        device="cpu",
        dtype="auto",
        verbose=0,
    ):
        self.n_tokens = n_tokens
        self.alpha_head = alpha_head
        self.alpha_attention = alpha_attention
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.max_iter = max_iter
        self.tol = tol
        self.class_weight = class_weight
        self.device = device
        self.dtype = dtype
        self.verbose = verbose

    fit = methods.fit_classifier
    decision_function = methods.decision_function
    predict_proba = methods.predict_proba
    predict_log_proba = methods.predict_log_proba
    predict = methods.predict_class
    score = methods.accuracy
    attention = methods.attention
    transform = methods.transform
    __getstate__ = methods.getstate
    __setstate__ = methods.setstate

    def __sklearn_tags__(self):
        return methods.token_tags(self, super().__sklearn_tags__())
