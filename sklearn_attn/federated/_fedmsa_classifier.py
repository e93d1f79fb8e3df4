"""FedMSAClassifier: min_x f(x, w*(x)), w*(x) = argmin_w g(x, w)  (2306.01648)."""

from typing import ClassVar

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from .._arrays import follow, to_numpy
from .._compat import (
    CallbackSupportMixin,
    HasMethods,
    StrOptions,
    fit_context,
    with_callbacks,
)
from .._validation import unharmed
from . import _fedmsa_methods as methods


class FedMSAClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """Classification over clients that share no rows, tuned on validation rows of each.

    The model is fitted to training rows, its hyperparameters to validation rows, both
    at once and both by averages over clients [1]_: local steps follow the gradients of
    all clients, and a third variable makes hypergradients such averages too. By default
    a linear model learns how much to adjust its logits for rare classes, and its ridge.

    Read more in the :doc:`user guide </user_guide/fedmsa>`.

    Parameters
    ----------
    problem : {"logit_adjust", "plain", "ridge", "loss_tuning", "data_cleaning", \
            "hyper_representation"} or object, default="logit_adjust"
        What is tuned, by the loss of validation rows, in which all classes count the
        same.

        - "logit_adjust": the share of the logarithms of class frequencies that is added
          to logits in the loss, and the ridge.
        - "plain": nothing. The loss of all rows is minimised.
        - "ridge": the ridge.
        - "loss_tuning": a factor and an offset of the logit of each class in the loss.
          It takes some 20 validation rows per class.
        - "data_cleaning": a weight of each training row, which becomes small where its
          class seems wrong. It takes an `inner_l2` of some hundredths, without which
          the training rows that are left are learned by heart.
        - "hyper_representation": hidden layers, whereas the last one is fitted to
          training rows.
        - A :class:`BilevelProblem` or another of its kind: what it says. Its inner
          variable must be a dict with "coef" of shape (n_features, n_classes) and
          "intercept" of shape (n_classes,), and clients have dicts with standardised
          rows "X" and "X_val", indicators of classes "Y" and "Y_val", and weights.
    hidden_layer_sizes : array-like of int, default=()
        Widths of hidden layers. None is a linear model.
    activation : {"tanh", "relu", "gelu", "sigmoid"}, default="tanh"
        What follows each hidden layer. A smooth one has second derivatives, which
        hypergradients are made of.
    module : callable, default=None
        ``module(n_features)`` returns a `torch.nn.Module` to be used as hidden layers,
        without dropout or batch normalisation.
    n_rounds : int, default=100
        Limit of rounds, each of two messages, for tuning and again for fitting to all
        rows.
    local_steps : int, default=5
        Steps that a client makes by itself in each round.
    alpha : "auto" or float, default="auto"
        Step of the hyperparameters. "auto" begins with 0.05 for linear models, whose
        hyperparameters have their own units, else with a fifth of `beta`, and adapts.
    beta : "auto" or float, default="auto"
        Step of the model. "auto" is half of the inverse curvature, or less where
        clients differ much.
    momentum : float, default=0.1
        Share of the new evaluation in the estimate of the mean gradient; matters only
        with `batch_size` or `participation`.
    participation : float, default=1.0
        Share of clients that evaluate gradients in each round.
    local_clients : int, default=None
        How many clients make local steps in each round; all if None.
    variance_reduction : {"spider", None}, default="spider"
        Whether local steps follow the mean gradient, or each client's own, as in
        federated averaging.
    batch_size : int, default=None
        Rows that a client draws for each gradient; all if None.
    validation_fraction : float, default=0.3
        Share of each client's rows, class by class, that hyperparameters are tuned on.
    inner_l2 : float, default=1e-3
        Ridge on coefficients of features in such units (see `standardize`), and where a
        tuned one starts.
    v_init : {"zero", "cg", "neumann"}, default="zero"
        Where the adjoint variable starts.
    client_weight : {"samples", "uniform"}, default="samples"
        Whether clients count by their rows, or all the same.
    client_feature : int or str, default=None
        Column of X that names the client of a row, by whole numbers or, in a data frame
        or an array of objects, by strings. It is no feature.
    n_clients : int, default=None
        Number of clients that rows are divided among by chance, if none are named; one
        if None.
    clean_clients : array-like, default=None
        Names of clients whose targets can be trusted, with "data_cleaning": all their
        rows validate. None leaves out rows of all clients, as otherwise.
    clean_by : {"sample", "client"}, default="sample"
        Whether "data_cleaning" finds a weight for each row, or for each client.
    standardize : "auto" or bool, default="auto"
        Whether each feature is divided by its standard deviation, which clients can
        tell by sums, or all by the root of their mean variance. "auto" does the former
        where one varies more than 10 times as much as half of the others.
    refit : bool, default=True
        Whether to fit to all rows, those that validated too, once tuning is done.
    tol : float, default=1e-4
        Rounds end once the norms of all mean gradients are at most that. Those of
        linear models are multiplied by an inverse covariance, see Notes.
    engine : {"vmap", "gloo", "flower"} or object, default="vmap"
        Who computes: this process; worker processes that talk over TCP; or a Flower
        simulation.
    backend_options : dict, default=None
        Options of "gloo" and "flower".
    on_lost_client : {"continue", "stop"}, default="continue"
        Whether to go on without a client that does not answer.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    random_state : int, RandomState instance or None, default=None
        Determines which rows validate, and what is drawn.
    warm_start : bool, default=False
        Whether to begin where the last fit ended, if shapes are the same.
    verbose : int, default=0
        Whether to print a line per round.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes.
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients of the features, where there are no hidden layers.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts, likewise.
    hyperparams_ : dict
        What was tuned: "tau" and "l2"; "scale" and "offset" of the classes;
        "weight" of each row, NaN for those that validated; or "body", parameters of
        hidden layers.
    client_ids_ : ndarray of shape (n_clients,)
        Names of the clients.
    n_clients_ : int
        Number of clients.
    history_ : dict of list
        One item per round of tuning: "comm_rounds" and "comm_floats" sent so far,
        "hypergrad_norm", "inner_residual" and "adjoint_residual", norms of the mean
        gradients, "outer_loss" on validation rows, the steps "alpha" and "beta",
        clients "lost", and "seconds".
    loss_curve_ : list of float
        The outer loss after each round.
    communications_ : int
        Messages to clients in all, of fitting to all rows too.
    heterogeneity_ : float
        How much the curvature of a client differs from the mean, at most, as of
        :func:`client_heterogeneity`.
    converged_ : bool
        Whether `tol` was met.
    n_iter_ : int
        Rounds of tuning, or of fitting, if nothing is tuned.
    result_ : Solution
        Of :func:`fedmsa`: the variables (x, (w, v)) of the tuning, in standard units.
    module_ : torch.nn.Module or None
        The hidden layers, if there are some, which read features in standard units.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names for all of them.

    See Also
    --------
    FedMSARegressor : The same for numbers.
    fedmsa : The solver, for problems of any kind.
    CommunicationDisplay : Errors against rounds and numbers sent.

    Notes
    -----
    Clients send sums of gradients, no rows. What this class needs before is sums too,
    for which it looks at X in this process, and which `history_` does not count: shares
    of classes, names of clients, means and deviations of features, and in linear models
    of up to 2000 features their covariance C. Gradients by coefficients are multiplied
    by (C + mean variance)^{-1}, which moves no solution, but lets steps of one size fit
    all directions better. Scaling all columns would scale
    ids of clients; use a :class:`~sklearn.compose.ColumnTransformer` that passes their
    column on. In a cross-validation with :class:`~sklearn.model_selection.GroupKFold`,
    `groups` feeds both the splitter and the clients: scores are then those of clients
    that were not seen.

    References
    ----------
    .. [1] Tarzanagh, Li, Sharma and Oymak, "Federated Multi-Sequence Stochastic
           Approximation with Local Hypergradient Estimation", arXiv:2306.01648.

    Examples
    --------
    A long tail of digits, of which each client has other ones:

    >>> from sklearn.metrics import balanced_accuracy_score
    >>> from sklearn_attn.datasets import make_longtail_clients
    >>> from sklearn_attn.federated import FedMSAClassifier
    >>> X, y, clients = make_longtail_clients(random_state=0)
    >>> X_test, y_test, _ = make_longtail_clients(subset="test", random_state=0)
    >>> for problem in ("plain", "logit_adjust"):
    ...     model = FedMSAClassifier(problem, random_state=0).fit(X, y, groups=clients)
    ...     print(f"{balanced_accuracy_score(y_test, model.predict(X_test)):.2f}")
    0.88
    0.91
    """

    __metadata_request__fit: ClassVar[dict] = {"groups": True}

    _parameter_constraints: ClassVar[dict] = methods.CONSTRAINTS | {
        "problem": [
            StrOptions(
                {
                    "logit_adjust",
                    "plain",
                    "ridge",
                    "loss_tuning",
                    "data_cleaning",
                    "hyper_representation",
                }
            ),
            HasMethods("from_gradient"),
            HasMethods("field"),
        ]
    }
    _doc_link_module = "sklearn_attn"
    _doc_link_template = methods.DOC_LINK_TEMPLATE
    _is_regressor = False

    def __init__(
        self,
        problem="logit_adjust",
        *,
        hidden_layer_sizes=(),
        activation="tanh",
        module=None,
        n_rounds=100,
        local_steps=5,
        alpha="auto",
        beta="auto",
        momentum=0.1,
        participation=1.0,
        local_clients=None,
        variance_reduction="spider",
        batch_size=None,
        validation_fraction=0.3,
        inner_l2=1e-3,
        v_init="zero",
        client_weight="samples",
        client_feature=None,
        n_clients=None,
        clean_clients=None,
        clean_by="sample",
        standardize="auto",
        refit=True,
        tol=1e-4,
        engine="vmap",
        backend_options=None,
        on_lost_client="continue",
        device="cpu",
        random_state=None,
        warm_start=False,
        verbose=0,
    ):
        self.problem = problem
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.module = module
        self.n_rounds = n_rounds
        self.local_steps = local_steps
        self.alpha = alpha
        self.beta = beta
        self.momentum = momentum
        self.participation = participation
        self.local_clients = local_clients
        self.variance_reduction = variance_reduction
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.inner_l2 = inner_l2
        self.v_init = v_init
        self.client_weight = client_weight
        self.client_feature = client_feature
        self.n_clients = n_clients
        self.clean_clients = clean_clients
        self.clean_by = clean_by
        self.standardize = standardize
        self.refit = refit
        self.tol = tol
        self.engine = engine
        self.backend_options = backend_options
        self.on_lost_client = on_lost_client
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    @unharmed
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None):
        """Fit the model, and tune it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. One column may name their clients.
        y : array-like of shape (n_samples,)
            Classes.
        groups : array-like of shape (n_samples,), default=None
            The client of each row, where no column of X names it.

        Returns
        -------
        self : FedMSAClassifier
            The fitted model.

        Raises
        ------
        ValueError
            If clients are named twice, or by numbers that are not whole; if settings do
            not go together, or a step is so large that it must diverge; if there is
            only one class; if X has NaN or infinity; or if the device does not exist.
        DivergenceError
            If variables grow without limit, with steps that were given.
        ClientLostError
            If a client does not answer and `on_lost_client` is "stop".

        Warns
        -----
        ConvergenceWarning
            If `n_rounds` leave more than half of the first gradients. Rounds are a
            budget otherwise; `converged_` tells whether `tol` was met.
        """
        rows, rng = methods.prepare(self, X, y, groups)
        found = methods.solve(self, rows, rng, X, y)
        methods.keep(self, self._describe(rows, found, X))
        methods.warn_of_limit(self, found, depth=6)
        return self

    def decision_function(self, X):
        """Return the logits of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            Logits; of two classes, how much larger the second one is.
        """
        z, dtype = methods.outputs(self, X, "decision_function")
        z = z[:, 1] - z[:, 0] if z.shape[1] == 2 else z
        return follow(X)(z.astype(dtype))

    def predict(self, X):
        """Return the most probable classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Classes.
        """
        z, _ = methods.outputs(self, X, "predict")
        return _put_labels(follow(X), to_numpy(self.classes_)[z.argmax(1)])

    def predict_proba(self, X):
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of `classes_`.
        """
        z, dtype = methods.outputs(self, X, "predict_proba")
        return follow(X)(softmax(z, axis=1).astype(dtype))

    def predict_log_proba(self, X):
        """Return the logarithms of the probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Those of `predict_proba`.
        """
        z, dtype = methods.outputs(self, X, "predict_log_proba")
        return follow(X)(log_softmax(z, axis=1).astype(dtype))

    __getstate__ = methods.getstate
    __setstate__ = methods.setstate

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags

    def _single_column(self, y):
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        return y

    def _targets(self, y, X):
        """Return indicators of classes, their codes, and units."""
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                "FedMSAClassifier needs samples of at least two classes; got one "
                f"class, {classes[0]}."
            )
        return np.eye(len(classes))[codes], codes, methods.Units.of(X, self.standardize)

    def _describe(self, rows, found, X):
        put = follow(X)
        attributes = methods.describe(self, rows, found, put)
        attributes["classes_"] = _put_labels(put, rows.classes)
        model = attributes["_model"]
        if model.body is None:
            coef, intercept = model.coef, model.intercept
            if len(coef) == 2:
                coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
            attributes |= {"coef_": put(coef), "intercept_": put(intercept)}
        return attributes


def _put_labels(put, labels):
    return put(labels) if labels.dtype.kind in "biuf" else labels
