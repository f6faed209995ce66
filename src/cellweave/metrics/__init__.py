"""How well predicted labels agree with true ones: matching, overlap, boundaries and counts."""

from cellweave.metrics.evaluation import THRESHOLDS, Evaluation, Scores, evaluate, evaluate_image
from cellweave.metrics.matching import Detection, Match, match
from cellweave.metrics.report import as_table, to_csv, to_json

__all__ = [
    "THRESHOLDS",
    "Detection",
    "Evaluation",
    "Match",
    "Scores",
    "as_table",
    "evaluate",
    "evaluate_image",
    "match",
    "to_csv",
    "to_json",
]
