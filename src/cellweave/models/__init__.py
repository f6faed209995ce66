"""Trained models: what is saved, loaded and shared, and where to find it."""

from cellweave.models.segmenter import Segmenter
from cellweave.models.size_model import SizeModel, fit_size_model

__all__ = ["Segmenter", "SizeModel", "fit_size_model"]
