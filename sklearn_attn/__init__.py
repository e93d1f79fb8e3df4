"""scikit-learn-compatible estimators for attention, sequences, bandits and clients.

Every public name is imported on first use (PEP 562), so that `import sklearn_attn`
costs milliseconds and loads neither torch nor scikit-learn.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sklearn-attn")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

_HOME = {
    "AttentionDisplay": "attention",
    "AttentionSVMClassifier": "attention",
    "BilinearSystemIdentifier": "dynamics",
    "CardSortingDisplay": "bandits",
    "ChainOfThoughtRegressor": "in_context",
    "CommunicationDisplay": "federated",
    "ComparisonDisplay": "comparison",
    "ContextualRepresentationBandit": "bandits",
    "DependencePatternDisplay": "bandits",
    "FedMSAClassifier": "federated",
    "FedMSARegressor": "federated",
    "InContextClassifier": "in_context",
    "InContextForecaster": "in_context",
    "InContextRegressor": "in_context",
    "LinearAttentionClassifier": "attention",
    "ManifoldNeuralODERegressor": "dynamics",
    "MarginDisplay": "attention",
    "MeanTokenClassifier": "attention",
    "MultipathMTL": "multitask",
    "MultipathMTLClassifier": "multitask",
    "PathwayDisplay": "multitask",
    "PromptAttention": "attention",
    "PromptAttentionRegressor": "attention",
    "RegretDisplay": "bandits",
    "RiskCurveDisplay": "in_context",
    "SelfAttentionClassifier": "attention",
    "StabilityDisplay": "dynamics",
    "StepRiskDisplay": "in_context",
    "TrajectoryDisplay": "dynamics",
    "SparseDependenceBandit": "bandits",
    "TaskRegretDisplay": "bandits",
    "compare": "comparison",
    "show_versions": "_show_versions",
}
_SUBMODULES = (
    "attention",
    "bandits",
    "callbacks",
    "comparison",
    "datasets",
    "dynamics",
    "federated",
    "in_context",
    "multitask",
    "preprocessing",
)

__all__ = ["__version__", *_HOME, *_SUBMODULES]


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in _SUBMODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
