"""Whether the confidence of the embedded model means what it says: part of `generalist.py`.

Never fitted to a test split: the calibration of the model is that of its validation images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cellweave import read_image
from cellweave.io import read_labels
from cellweave.metrics import reliability
from cellweave.models import fit_calibration, load_model
from cellweave.train import Example
from cellweave.train.calibrate import ScoredObjects, cross_validated, score_objects
from foundation import _split
from record import Row

SETS = ("dsb2018", "bbbc039", "bitdepth_nucseg", "usiigaci_phase")
TEST = "dsb2018_stardist_test"


def calibration() -> Iterator[Row]:
    """Confidence of objects against the share of them that match at IoU 0.5, diameter given and estimated."""
    model = load_model("default")
    found = score_objects(model, [example for name in SETS for example in _examples(name, "val")])
    confidence = cross_validated(found)
    row = {"data": ", ".join(SETS), "split": "val"}
    against = f"{len(confidence):,} objects, each calibrated on other images"
    error = reliability(confidence, found.matched).expected_calibration_error
    yield Row("confidence: expected calibration error", error, "", against, at_most=0.02, **row)
    error = reliability(found.scores, found.matched).expected_calibration_error
    yield Row("scores before calibration: expected calibration error", error, "", **row)
    yield Row("confidence: AUC, objects that match against others", auc(found), "", **row)

    fitted = model.calibration or fit_calibration(found.scores, found.matched)
    held_out = score_objects(model, _examples(TEST, "test"))
    confidence = fitted.apply(held_out.scores).astype(np.float64)
    row = {"data": TEST, "split": "test"}
    against = f"{len(confidence):,} objects; calibrated on the validation images"
    error = reliability(confidence, held_out.matched).expected_calibration_error
    yield Row("confidence: expected calibration error", error, "", against, **row)
    around = (confidence >= 0.7) & (confidence <= 0.9)
    against = f"{np.count_nonzero(around):,} objects, mean confidence {_mean(confidence[around]):.2f}"
    yield Row("of the objects with confidence 0.7 to 0.9: match", _mean(held_out.matched[around]), "", against, **row)
    yield Row("confidence: AUC, objects that match against others", auc(held_out), "", **row)


def auc(found: ScoredObjects) -> float:
    """How often a matching object scores higher than another, ties counting half; NaN without both kinds."""
    ranks, n1 = rankdata(found.scores), np.count_nonzero(found.matched)
    pairs = n1 * (len(ranks) - n1)
    return float((ranks[found.matched].sum() - n1 * (n1 + 1) / 2) / pairs) if pairs else float("nan")


def _mean(values: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _examples(dataset: str, split: str) -> list[Example]:
    return [Example(stem, read_image(image), read_labels(labels)) for stem, image, labels in _split(dataset, split)]
