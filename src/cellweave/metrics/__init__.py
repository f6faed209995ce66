"""How well predicted labels agree with true ones: matching, overlap, boundaries, counts, confidence."""

from cellweave.metrics.evaluation import THRESHOLDS, Evaluation, Scores, evaluate, evaluate_image
from cellweave.metrics.matching import Detection, Match, match
from cellweave.metrics.reliability import Reliability, reliability
from cellweave.metrics.report import as_table, to_csv, to_json

__all__ = [
    "THRESHOLDS",
    "Detection",
    "Evaluation",
    "Match",
    "Reliability",
    "Scores",
    "as_table",
    "evaluate",
    "evaluate_image",
    "match",
    "reliability",
    "to_csv",
    "to_json",
]
