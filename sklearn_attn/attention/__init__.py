"""Attention as a max-margin token selector, and classifiers built on it."""

from ._attention_display import AttentionDisplay
from ._attention_svm_classifier import AttentionSVMClassifier
from ._implicit_bias import attention_descent, is_locally_optimal, token_scores
from ._joint_svm import JointMaxMargin, solve_joint_svm, solve_label_svm
from ._key_query_svm import solve_key_query_svm
from ._margin_display import MarginDisplay
from ._regularization_path import regularization_path
from ._solve_token_svm import TokenSVMSolution, solve_token_svm
from ._token_svm import TokenSVM

__all__ = [
    "AttentionDisplay",
    "AttentionSVMClassifier",
    "JointMaxMargin",
    "MarginDisplay",
    "TokenSVM",
    "TokenSVMSolution",
    "attention_descent",
    "is_locally_optimal",
    "regularization_path",
    "solve_joint_svm",
    "solve_key_query_svm",
    "solve_label_svm",
    "solve_token_svm",
    "token_scores",
]
