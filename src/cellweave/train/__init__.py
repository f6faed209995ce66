"""Training: data checks, targets, augmentation, the loop, the size model."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellweave.train.api import prepare_only, train
    from cellweave.train.cell_segmenter import train_cell_segmenter
    from cellweave.train.config import TrainConfig
    from cellweave.train.pairs import DataReport, Pair, check_folder, check_pairs, find_pairs
    from cellweave.train.samples import Example
    from cellweave.train.self_training import pseudo_labels, self_train

_HOME = {
    "DataReport": "pairs",
    "Example": "samples",
    "Pair": "pairs",
    "TrainConfig": "config",
    "check_folder": "pairs",
    "check_pairs": "pairs",
    "find_pairs": "pairs",
    "prepare_only": "api",
    "pseudo_labels": "self_training",
    "self_train": "self_training",
    "train": "api",
    "train_cell_segmenter": "cell_segmenter",
}
__all__ = [
    "DataReport",
    "Example",
    "Pair",
    "TrainConfig",
    "check_folder",
    "check_pairs",
    "find_pairs",
    "prepare_only",
    "pseudo_labels",
    "self_train",
    "train",
    "train_cell_segmenter",
]


class _CallableModule(ModuleType):
    """``cellweave.train`` is this package and the function `train`: importing the one must not hide the other.

    Names are imported when first used, so that `cellweave.train.bare` runs where only NumPy and PyTorch are.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'cellweave.train' has no attribute '{name}'")
        value = getattr(import_module(f"cellweave.train.{_HOME[name]}"), name)
        setattr(self, name, value)
        return value

    def __call__(self, *args: Any, **options: Any) -> Any:
        return import_module("cellweave.train.api").train(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
