"""In-context learning: a pretrained transformer is the learning algorithm."""

from ._chain_of_thought_regressor import ChainOfThoughtRegressor, StepRisk
from ._comparators import (
    kalman_predict,
    log_evidence,
    minimum_norm,
    mixture_of_ridges,
    ridge,
    weighted_ridge,
    window_least_squares,
)
from ._composed_priors import (
    ComposedTasks,
    DeepLinearPrior,
    MLPPrior,
    StepPrior,
)
from ._filtered import filtered_least_squares
from ._filtered_chain import filtered_chain
from ._in_context_classifier import InContextClassifier
from ._in_context_forecaster import InContextForecaster
from ._in_context_regressor import InContextRegressor
from ._pretrain import TaskPool, pretrain_in_context, pretrain_in_context_from
from ._pretrain_steps import pretrain_chain_of_thought
from ._priors import (
    LDSPrior,
    LinearPrior,
    MixturePrior,
    ReLUUnitPrior,
    SparseLinearPrior,
    Tasks,
    WindowPrior,
)
from ._risk import RiskCurve, risk_curve, stability_curve
from ._risk_curve_display import RiskCurveDisplay
from ._step_risk import StepRiskCurve, step_risk_curve
from ._step_risk_display import StepRiskDisplay
from ._weights import PretrainedICL, load_in_context_weights

__all__ = [
    "ChainOfThoughtRegressor",
    "ComposedTasks",
    "DeepLinearPrior",
    "InContextClassifier",
    "InContextForecaster",
    "InContextRegressor",
    "LDSPrior",
    "LinearPrior",
    "MLPPrior",
    "MixturePrior",
    "PretrainedICL",
    "ReLUUnitPrior",
    "RiskCurve",
    "RiskCurveDisplay",
    "SparseLinearPrior",
    "StepPrior",
    "StepRisk",
    "StepRiskCurve",
    "StepRiskDisplay",
    "TaskPool",
    "Tasks",
    "WindowPrior",
    "filtered_chain",
    "filtered_least_squares",
    "kalman_predict",
    "load_in_context_weights",
    "log_evidence",
    "minimum_norm",
    "mixture_of_ridges",
    "pretrain_chain_of_thought",
    "pretrain_in_context",
    "pretrain_in_context_from",
    "ridge",
    "risk_curve",
    "stability_curve",
    "step_risk_curve",
    "weighted_ridge",
    "window_least_squares",
]
