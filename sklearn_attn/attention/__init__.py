"""Attention as a max-margin token selector, and classifiers built on it."""

from ._attention_display import AttentionDisplay
from ._attention_svm_classifier import AttentionSVMClassifier
from ._implicit_bias import attention_descent, is_locally_optimal, token_scores
from ._joint_svm import JointMaxMargin, solve_joint_svm, solve_label_svm
from ._key_query_svm import solve_key_query_svm
from ._linear_attention_classifier import LinearAttentionClassifier
from ._margin_display import MarginDisplay
from ._mean_token_classifier import MeanTokenClassifier
from ._prompt_attention import PromptAttention
from ._prompt_attention_regressor import PromptAttentionRegressor
from ._prompt_theory import (
    critical_delta,
    optimal_prompt_scale,
    prompt_attention_error,
    separating_prompt_scale,
    three_step_alignment,
)
from ._regularization_path import regularization_path
from ._self_attention_classifier import SelfAttentionClassifier
from ._solve_token_svm import TokenSVMSolution, solve_token_svm
from ._token_svm import TokenSVM

__all__ = [
    "AttentionDisplay",
    "AttentionSVMClassifier",
    "JointMaxMargin",
    "LinearAttentionClassifier",
    "MarginDisplay",
    "MeanTokenClassifier",
    "PromptAttention",
    "PromptAttentionRegressor",
    "SelfAttentionClassifier",
    "TokenSVM",
    "TokenSVMSolution",
    "attention_descent",
    "critical_delta",
    "is_locally_optimal",
    "optimal_prompt_scale",
    "prompt_attention_error",
    "regularization_path",
    "separating_prompt_scale",
    "solve_joint_svm",
    "solve_key_query_svm",
    "solve_label_svm",
    "solve_token_svm",
    "three_step_alignment",
    "token_scores",
]
