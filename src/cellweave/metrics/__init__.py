"""How well predicted labels agree with true ones: matching, overlap, boundaries, counts, confidence."""

from cellweave.metrics.counting import (
    CountErrors,
    CountEvaluation,
    PointDetection,
    PointEvaluation,
    PointMatch,
    PointScores,
    count_errors,
    evaluate_points,
    match_points,
)
from cellweave.metrics.evaluation import THRESHOLDS, Evaluation, Scores, evaluate, evaluate_image
from cellweave.metrics.matching import Detection, Match, match
from cellweave.metrics.reliability import Reliability, reliability
from cellweave.metrics.report import as_table, counts_table, points_table, to_csv, to_json

__all__ = [
    "THRESHOLDS",
    "CountErrors",
    "CountEvaluation",
    "Detection",
    "Evaluation",
    "Match",
    "PointDetection",
    "PointEvaluation",
    "PointMatch",
    "PointScores",
    "Reliability",
    "Scores",
    "as_table",
    "count_errors",
    "counts_table",
    "evaluate",
    "evaluate_image",
    "evaluate_points",
    "match",
    "match_points",
    "points_table",
    "reliability",
    "to_csv",
    "to_json",
]
