"""The checks of scikit-learn on every public estimator; none is expected to fail."""

import copy

import numpy as np
import pytest
import sklearn.utils.estimator_checks as checks
import torch
from discovery import all_estimators
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import (
    estimator_checks_generator,
    parametrize_with_checks,
)

from sklearn_attn.attention import (
    AttentionSVMClassifier,
    LinearAttentionClassifier,
    MeanTokenClassifier,
    PromptAttention,
    PromptAttentionRegressor,
    SelfAttentionClassifier,
)
from sklearn_attn.bandits import (
    ContextualRepresentationBandit,
    SparseDependenceBandit,
)
from sklearn_attn.dynamics import (
    BilinearSystemIdentifier,
    ManifoldNeuralODERegressor,
)
from sklearn_attn.federated import FedMSAClassifier, FedMSARegressor
from sklearn_attn.in_context import (
    ChainOfThoughtRegressor,
    InContextClassifier,
    InContextRegressor,
)
from sklearn_attn.multitask import MultipathMTL, MultipathMTLClassifier
from sklearn_attn.preprocessing import FeatureTokenizer, PatchTokenizer, WindowTokenizer

ESTIMATORS = dict(all_estimators())
# Settings that take another way through the code than the defaults do.
VARIANTS = {
    AttentionSVMClassifier: [
        {"refit": None},
        {"pooling": "hard"},
        {"attention_C": np.inf, "relax_non_support": True},
        {"refit": None, "loss": "exponential", "class_weight": "balanced"},
    ],
    PromptAttention: [
        {"method": "known-prompt", "prompt": 0.5},
        {"method": "three-step"},
        {"method": "three-step", "head": "mean"},
        {"method": "three-step", "head": "least-squares"},
        {"method": "three-step", "head": "ridge", "debias": False},
        {"shared_prompt": True, "class_weight": "balanced"},
        {"standardize": None, "n_refine": 1},
    ],
    PromptAttentionRegressor: [
        {"method": "known-prompt", "prompt": 0.5},
        {"method": "three-step"},
        {"method": "three-step", "head": "least-squares"},
        {"method": "three-step", "head": "mean", "standardize": "feature"},
    ],
    BilinearSystemIdentifier: [
        {"fit_intercept": True, "alpha": 0.1},
        {"solver": "tsqr", "missing": "drop"},
        {"solver": "lstsq", "block_size": 7},
        {"time": "continuous", "dt": 0.1},
        {"time": "continuous", "dt": 0.1, "derivative": "euler"},
        {"uncertainty": False, "dtype": "float64"},
    ],
    ManifoldNeuralODERegressor: [
        {"neurons": "own", "width": 2, "n_init": 1},
        {"integrator": "rkmk4", "n_layers": 1, "activation": "tanh", "n_init": 1},
        {"solver": "adam", "batch_size": 16, "max_iter": 100, "early_stopping": True},
        {"solver": "sgd", "retraction": "cayley", "max_iter": 200, "n_init": 1},
    ],
    # with a forced number of lags, predictions are of the sequence and not of its rows
    SparseDependenceBandit: [
        {"solver": "htp", "horizon": 7},
        {"solver": "lasso"},
        {"solver": "group_lasso", "fit_intercept": False},
        {"solver": "quarters", "horizon": 1},
        {"rank_one": False, "alpha": 0.01},
        {"prewhiten": 2, "allow_missing_y": True},
        {"nonneg": True, "chunk_size": 16, "dtype": "float64"},
    ],
    ContextualRepresentationBandit: [
        {"n_components": 1, "fit_intercept": False},
        {"detector": "paper", "noise_std": 1.0, "ridge": 0.1},
    ],
    MultipathMTL: [
        {"solver": "moment", "fit_intercept": False, "layers": ((2, 3),)},
    ],
    FedMSAClassifier: [{"problem": "loss_tuning", "n_clients": 3, "n_rounds": 20}],
    FedMSARegressor: [
        {"client_weight": "uniform", "n_clients": 3, "standardize": True}
    ],
    MultipathMTLClassifier: [{"solver": "als", "layers": ((2, 3),), "alpha_head": 0.1}],
    ChainOfThoughtRegressor: [
        {"solver": "filtered"},
    ],
    InContextClassifier: [{"max_context": 60, "n_estimators": 2}],
    InContextRegressor: [
        {"max_context": 60, "n_estimators": 2, "cache": "eager"},
        {"weights": "icl-linear-noisy", "standardize": False, "noise": 0.5},
        {"context_strategy": "nearest", "max_context": 30, "cache": "none"},
    ],
    LinearAttentionClassifier: [{"standardize": "feature"}],
    MeanTokenClassifier: [{"class_weight": "balanced"}],
    SelfAttentionClassifier: [{"standardize": None}],
    FeatureTokenizer: [
        {"flatten": True},
        {"encoding": "append"},
        {"encoding": "append", "flatten": True, "missing": "mask"},
    ],
    PatchTokenizer: [{"flatten": True}],
    WindowTokenizer: [{"flatten": True}, {"window": 1, "stride": 1}],
}
ON_FEATURE_TOKENS = {
    AttentionSVMClassifier: [
        {},
        {"refit": None, "n_init": 2, "random_state": 0},
        {"solver": "ngd", "max_iter": 100},  # it always takes them all
        {"solver": "alternate", "pooling": "hard"},
    ],
    PromptAttention: [
        {},
        {"method": "three-step"},
        {"method": "three-step", "head": "mean", "n_refine": 1},
        {"method": "three-step", "sample_split": True, "random_state": 0},
        {"shared_prompt": True},
        {"method": "known-prompt", "prompt": 0.5},
    ],
    PromptAttentionRegressor: [{}, {"method": "three-step"}],
}
# Rounding differs between devices, and grows with each step of a descent that is not
# convex: equal to begin with is all that can be asked for.
SHORT_DESCENTS = {ManifoldNeuralODERegressor: {"max_iter": 5}}
# Estimators that compute in single precision on a GPU unless told otherwise.
SINGLE_ON_GPUS = (
    ChainOfThoughtRegressor,
    InContextClassifier,
    InContextRegressor,
)
# Checks that `check_estimator` leaves out.
FURTHER_CHECKS = [
    "check_param_validation",
    "check_dataframe_column_names_consistency",
    "check_n_features_in_after_fitting",
    "check_inplace_ensure_writeable",
    "check_estimators_partial_fit_n_features",
]
TRANSFORMER_CHECKS = [
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
]
# Where tokens are an array of three axes, no container can be asked for; see below.
REFUSED_BY_TOKENS = {"check_transformer_preserve_dtypes"}
# Every pipeline fails these two, since it fits its steps in place; see the last test.
REFUSED_BY_PIPELINES = {
    "check_estimators_overwrite_params",
    "check_dont_overwrite_parameters",
}


def variants():
    for cls in ESTIMATORS.values():
        yield cls()
        for parameters in VARIANTS.get(cls, []):
            yield cls(**parameters)


def check_name(check):
    return getattr(check, "func", check).__name__


def pipelines():
    """Attention over several tokens, on the two-dimensional data of the checks."""
    for cls in ESTIMATORS.values():
        if not hasattr(cls, "predict") or "n_tokens" not in cls().get_params():
            continue  # no estimator of tokens
        for parameters in ON_FEATURE_TOKENS.get(cls, [{}]):
            yield make_pipeline(FeatureTokenizer(), cls(**parameters))


@parametrize_with_checks(list(variants()))
def test_estimator_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(estimator, check, id=f"{estimator[-1]}-{check_name(check)}")
        for pipeline in pipelines()
        for estimator, check in estimator_checks_generator(pipeline)
        if check_name(check) not in REFUSED_BY_PIPELINES | REFUSED_BY_TOKENS
    ],
)
def test_attention_over_feature_tokens_passes_the_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", variants(), ids=str)
@pytest.mark.parametrize("name", FURTHER_CHECKS)
def test_estimator_passes_the_checks_that_check_estimator_leaves_out(estimator, name):
    getattr(checks, name)(type(estimator).__name__, estimator)


@pytest.mark.filterwarnings("ignore:X .* feature names")  # what some checks provoke
@pytest.mark.parametrize(
    "estimator",
    [e for e in variants() if hasattr(e, "transform") and hasattr(e, "set_output")],
    ids=str,
)
@pytest.mark.parametrize("name", TRANSFORMER_CHECKS)
def test_flat_transformer_passes_the_checks_of_names_and_containers(estimator, name):
    getattr(checks, name)(type(estimator).__name__, estimator)


@pytest.mark.parametrize("estimator", variants(), ids=str)
@pytest.mark.parametrize(
    ("namespace", "device", "dtype"),
    [
        ("torch", "cpu", "float64"),
        ("torch", "cpu", "float32"),
        ("array_api_strict", "CPU_DEVICE", "float64"),
        pytest.param("torch", "cuda", "float64", marks=pytest.mark.gpu),
    ],
)
def test_array_api_input_gives_the_values_of_numpy_input(
    estimator, namespace, device, dtype
):
    check = getattr(checks, "check_array_api_input_and_values", None)
    if check is None or not hasattr(checks, "check_array_api_same_namespace"):
        pytest.skip("the array-API checks of third parties came with scikit-learn 1.9")
    assert get_tags(estimator).array_api_support
    check(type(estimator).__name__, estimator, namespace, device, dtype_name=dtype)


@pytest.mark.parametrize("estimator", variants(), ids=str)
def test_fit_and_predict_leave_the_globals_of_torch_alone(estimator):
    X, y = make_classification(40, n_features=6, random_state=0)
    torch.manual_seed(7)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)  # not what the guard sets it to
    before = (
        torch.get_rng_state(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )
    estimator = clone(estimator).fit(X, y)
    for method in ("predict", "transform"):
        if hasattr(estimator, method):
            getattr(estimator, method)(X)
    after = (
        torch.get_rng_state(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )
    torch.set_num_threads(n_threads)
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("estimator", variants(), ids=str)
def test_without_dispatch_tensors_go_in_and_numpy_comes_out(estimator):
    X, y = make_classification(40, n_features=6, random_state=0)
    estimator = clone(estimator)
    checks.set_random_state(estimator)
    method = "predict" if hasattr(estimator, "predict") else "transform"
    fitted = clone(estimator).fit(torch.from_numpy(X), torch.from_numpy(y))
    result = getattr(fitted, method)(torch.from_numpy(X))
    assert isinstance(result, np.ndarray)
    expected = getattr(clone(estimator).fit(X, y), method)(X)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("estimator", variants(), ids=str)
def test_a_failed_fit_leaves_a_fitted_estimator_as_it_was(estimator):
    X, y = make_classification(40, n_features=6, random_state=0)
    fitted = clone(estimator).fit(X, y)
    before = copy.deepcopy(vars(fitted))
    with pytest.raises(ValueError, match="infinity"):
        fitted.fit(np.full((40, 3), np.inf), y)
    after = vars(fitted)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, after[name])
        elif isinstance(value, str | int | float | tuple | None):
            assert value == after[name]


@pytest.mark.parametrize("estimator", variants(), ids=str)
def test_the_html_repr_links_to_the_documentation(estimator):
    assert "sklearn-attn" in estimator._get_doc_link()


@pytest.mark.gpu
@pytest.mark.parametrize("cls", ESTIMATORS.values(), ids=lambda cls: cls.__name__)
def test_a_fit_on_the_gpu_equals_one_on_the_cpu(cls):
    if "device" not in cls().get_params():
        pytest.skip("computes where X lies, and has no device of its own")
    X, y = make_classification(60, n_features=6, random_state=0)
    methods = ("decision_function", "transform", "predict")
    methods = [method for method in methods if hasattr(cls, method)]
    settings = dict(SHORT_DESCENTS.get(cls, {}))
    if cls in SINGLE_ON_GPUS:
        settings["dtype"] = "float64"
    on_cpu, on_gpu = cls(**settings), cls(device="cuda", **settings)
    for estimator in (on_cpu, on_gpu):
        checks.set_random_state(estimator)
        estimator.fit(X, y)
    for method in methods:
        np.testing.assert_allclose(
            getattr(on_gpu, method)(X), getattr(on_cpu, method)(X), rtol=1e-7
        )


@pytest.mark.gpu
@pytest.mark.parametrize("cls", ESTIMATORS.values(), ids=lambda cls: cls.__name__)
def test_state_fitted_from_gpu_arrays_is_pickled_for_the_cpu(cls):
    X, y = make_classification(60, n_features=6, random_state=0)
    with config_context(array_api_dispatch=True):
        fitted = cls().fit(
            torch.from_numpy(X).to("cuda"), torch.from_numpy(y).to("cuda")
        )
    tensors = [v for v in fitted.__getstate__().values() if isinstance(v, torch.Tensor)]
    assert all(tensor.device.type == "cpu" for tensor in tensors)


@pytest.mark.parametrize("name", sorted(REFUSED_BY_PIPELINES))
def test_the_checks_left_out_for_pipelines_are_those_that_no_pipeline_passes(name):
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    with pytest.raises(AssertionError, match="steps"):
        getattr(checks, name)("Pipeline", pipeline)


def test_the_check_left_out_for_tokens_asks_for_containers_that_tokens_have_not():
    (name,) = REFUSED_BY_TOKENS
    pipeline = make_pipeline(FeatureTokenizer(), FunctionTransformer())
    with pytest.raises(ValueError, match="`set_output` is not available"):
        getattr(checks, name)("Pipeline", pipeline)
