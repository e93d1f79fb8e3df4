"""PromptAttention: f_k(X) = w_k'X'softmax(X q_k) + b_k as a classifier (2306.03435)."""

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
from ._token_attention import prompt_attention


class PromptAttention(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    ClassifierMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Linear classifier on tokens that are pooled by the attention of a trained prompt.

    Each sample is a sequence of tokens, of which some tell the class and the others
    distract. A prompt q weighs the tokens by softmax of their scores X q, and a head w
    reads the class from their weighted mean: the model that prompt-tuning trains [1]_.
    Two classes share one prompt; of more classes each has its own, and all are trained
    jointly.

    Read more in the :doc:`user guide </user_guide/prompt_attention>`.

    Parameters
    ----------
    n_tokens : int, default=1
        Number of tokens in each row of a 2-D X, laid end to end. Ignored where X is
        3-D or a list of sequences. A single token makes the model a
        :class:`~sklearn.linear_model.LogisticRegression`.
    method : {"gradient", "three-step", "known-prompt"}, default="gradient"
        How prompt and head are learned.

        - "gradient": the penalised logistic risk is minimised jointly in prompt and
          head by L-BFGS, from where the three steps lead.
        - "three-step": three gradient steps from zero, as analysed in the paper: a head
          on mean tokens, a prompt for this head, and then `head` for this prompt.
        - "known-prompt": `prompt` is given, only `head` is learned.
    prompt : float, array-like of shape (n_token_features,) or \
            (n_prompts, n_token_features), default=None
        The prompt of "known-prompt", in units of 1 / token: one, or one for each class
        if there are more than two. A number stands for all entries; 0 pools by the
        mean. Other methods ignore it.
    head : {"logistic", "ridge", "least-squares", "mean"}, default="logistic"
        How the head of "three-step" and "known-prompt" is learned: penalised logistic
        regression or ridge regression; least squares, of minimum norm where there are
        fewer samples than features; or the difference of the class means. What the last
        three predict is put on the scale of log-odds by a logistic regression on it.
    alpha_head : float, default=1e-2
        Ridge of the head, in units of the standardised tokens.
    alpha_prompt : float, default=1e-1
        Ridge of the prompt, in units of the standardised tokens. Without one the prompt
        of "gradient" would grow for ever, so that it must be positive there; in the
        other methods it guards the search for `prompt_scale` only.
    prompt_scale : float or "auto", default="auto"
        Length of the prompt of the three steps, in units of 1 / token. "auto" tries
        seven lengths, from 1/8 to 8 over the standard deviation of the token scores,
        and takes the one of least penalised square loss.
    sign_search : bool, default=True
        Whether the prompt of the three steps may point against its gradient: it must
        where distracting tokens show the other class so often that the mean token does.
    sample_split : bool, default=False
        Whether each of the three steps sees a third of the samples of its own, as in
        the paper's analysis. All samples for all steps was better wherever we tried.
    debias : bool, default=True
        Whether the three steps centre their targets. Otherwise, where classes differ in
        size, the prompt turns towards the head.
    n_refine : int, default=0
        How often the three steps go on: a prompt along the gradient at the current head
        and prompt, its length, and the head anew.
    shared_prompt : bool, default=False
        Whether more than two classes share one prompt.
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
    random_state : int, RandomState instance or None, default=None
        Seed of `sample_split`; nothing else is random.
    verbose : int, default=0
        Whether to print a line per iteration.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels. Below, `k` is 1 for two classes, else the number of classes;
        `n_prompts` is `k`, or 1 with `shared_prompt`.
    prompt_ : ndarray of shape (n_prompts, n_token_features)
        Prompts q, in the units of X: attention is ``softmax(X @ q)``.
    coef_ : ndarray of shape (k, n_token_features)
        Heads w, in the units of X.
    intercept_ : ndarray of shape (k,)
        Intercepts of the heads.
    prompt_direction_ : ndarray of shape (n_prompts, n_token_features)
        Unit vectors of the prompts that the three steps found. Not with
        "known-prompt".
    prompt_scale_ : ndarray of shape (n_prompts,)
        Lengths of these prompts, negative where one points against its gradient. The
        result of "three-step" is ``prompt_scale_[:, None] * prompt_direction_``, the
        start of "gradient" too. Not with "known-prompt".
    first_head_ : ndarray of shape (k, n_token_features)
        Heads of the first step, on mean tokens. Not with "known-prompt".
    mean_ : ndarray of shape (n_token_features,)
        Mean token that was subtracted; zero without intercept.
    scale_ : ndarray of shape (n_token_features,)
        What tokens were divided by.
    loss_ : float
        Penalised logistic risk of the result, whatever the method.
    loss_curve_ : list of float
        Objective after each iteration of L-BFGS; empty where there was none. A last
        polish is not counted.
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
    PromptAttentionRegressor : The same model for numbers.
    AttentionSVMClassifier : Where one token decides.
    MeanTokenClassifier, LinearAttentionClassifier, SelfAttentionClassifier : The models
        that the paper compares with.

    Notes
    -----
    The order of the tokens does not matter; nor does a vector that is added to all of
    them. Give the position as a feature if it tells something.

    An iteration costs four passes over X, the three steps two passes for each length
    that is tried. Memory holds one copy of X besides, and a few numbers per token.

    Fits with sample weights equal fits with repeated samples to 1e-7, except with
    `sample_split`, which draws samples.

    References
    ----------
    .. [1] Oymak, Rawat, Soltanolkotabi and Thrampoulidis, "On the Role of Attention in
           Prompt-tuning", ICML 2023, arXiv:2306.03435.

    Examples
    --------
    >>> from sklearn_attn.attention import PromptAttention
    >>> from sklearn_attn.datasets import make_digit_needles
    >>> X, y = make_digit_needles(300, digits=(3, 8), random_state=0)
    >>> X_test, y_test = make_digit_needles(300, digits=(3, 8), subset="test",
    ...                                     random_state=0)
    >>> classifier = PromptAttention().fit(X, y)
    >>> classifier.score(X_test, y_test) > 0.9
    True
    >>> classifier.attention(X_test).shape
    (300, 16)
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_tokens": [Interval(Integral, 1, None, closed="left")],
        "method": [StrOptions({"gradient", "three-step", "known-prompt"})],
        "prompt": ["array-like", Real, None],
        "head": [StrOptions({"logistic", "ridge", "least-squares", "mean"})],
        "alpha_head": [Interval(Real, 0, None, closed="left")],
        "alpha_prompt": [Interval(Real, 0, None, closed="left")],
        "prompt_scale": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "sign_search": ["boolean"],
        "sample_split": ["boolean"],
        "debias": ["boolean"],
        "n_refine": [Interval(Integral, 0, None, closed="left")],
        "shared_prompt": ["boolean"],
        "fit_intercept": ["boolean"],
        "standardize": [StrOptions({"global", "feature"}), None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "device": [str],
        "dtype": [StrOptions({"auto", "float64", "float32"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _doc_link_module = "sklearn_attn"
    _doc_link_template = methods.DOC_LINK_TEMPLATE
    _attention = staticmethod(prompt_attention)
    _attention_attribute = "prompt_"
    _centred = False
    _check = methods.check_prompt_model
    _learn = methods.learn_prompt_model

    def __init__(
        self,
        *,
        n_tokens=1,
        method="gradient",
        prompt=None,
        head="logistic",
        alpha_head=1e-2,
        alpha_prompt=1e-1,
        prompt_scale="auto",
        sign_search=True,
        sample_split=False,
        debias=True,
        n_refine=0,
        shared_prompt=False,
        fit_intercept=True,
        standardize="global",
        max_iter=1000,
        tol=1e-6,
        class_weight=None,
        device="cpu",
        dtype="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_tokens = n_tokens
        self.method = method
        self.prompt = prompt
        self.head = head
        self.alpha_head = alpha_head
        self.alpha_prompt = alpha_prompt
        self.prompt_scale = prompt_scale
        self.sign_search = sign_search
        self.sample_split = sample_split
        self.debias = debias
        self.n_refine = n_refine
        self.shared_prompt = shared_prompt
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.max_iter = max_iter
        self.tol = tol
        self.class_weight = class_weight
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    fit = methods.fit_classifier
    decision_function = methods.decision_function
    predict_proba = methods.predict_proba
    predict_log_proba = methods.predict_log_proba
    predict = methods.predict_class
    score = methods.accuracy
    attention = methods.attention
    token_scores = methods.token_scores
    relevance_map = methods.relevance_map
    transform = methods.transform
    __getstate__ = methods.getstate
    __setstate__ = methods.setstate

    def __sklearn_tags__(self):
        return methods.token_tags(self, super().__sklearn_tags__())
