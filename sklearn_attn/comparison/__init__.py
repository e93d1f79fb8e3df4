"""Compare estimators on the same folds, by a test that knows that folds overlap."""

from ._compare import compare
from ._comparison_display import ComparisonDisplay
from ._comparison_result import ComparisonResult

__all__ = ["ComparisonDisplay", "ComparisonResult", "compare"]
