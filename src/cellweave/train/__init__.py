"""Training: data checks, targets, augmentation, the loop, the size model."""

import sys
from types import ModuleType

from cellweave.train.api import train
from cellweave.train.config import TrainConfig
from cellweave.train.pairs import DataReport, Pair, check_folder, check_pairs, find_pairs
from cellweave.train.samples import Example

__all__ = [
    "DataReport",
    "Example",
    "Pair",
    "TrainConfig",
    "check_folder",
    "check_pairs",
    "find_pairs",
    "train",
]


class _CallableModule(ModuleType):
    """``cellweave.train`` is this package and the function `train`: importing the one must not hide the other."""

    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _CallableModule
