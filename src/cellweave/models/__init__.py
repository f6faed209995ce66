"""Trained models: what is saved, loaded and shared, and where to find it."""

from cellweave.models.calibration import Calibration, fit_calibration
from cellweave.models.cell_segmenter import CellSegmenter
from cellweave.models.count_calibration import CountCalibration
from cellweave.models.model_set import Choice, Key, ModelSet, Training
from cellweave.models.registry import AnyModel, ModelEntry, list_models, load_model, load_segmenter, load_set
from cellweave.models.segmenter import Segmenter
from cellweave.models.size_model import SizeModel, fit_size_model

__all__ = [
    "AnyModel",
    "Calibration",
    "CellSegmenter",
    "Choice",
    "CountCalibration",
    "Key",
    "ModelEntry",
    "ModelSet",
    "Segmenter",
    "SizeModel",
    "Training",
    "fit_calibration",
    "fit_size_model",
    "list_models",
    "load_model",
    "load_segmenter",
    "load_set",
]
