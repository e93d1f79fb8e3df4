"""Multitask learning over multiple paths through shared modules."""

from ._multipath_mtl import MultipathMTL
from ._multipath_mtl_classifier import MultipathMTLClassifier
from ._pathway_display import PathwayDisplay
from ._sample_risk_display import SampleRiskDisplay
from ._supernet import Supernet

__all__ = [
    "MultipathMTL",
    "MultipathMTLClassifier",
    "PathwayDisplay",
    "SampleRiskDisplay",
    "Supernet",
]
