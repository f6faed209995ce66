"""Training: data checks, targets, augmentation, the loop, the size model."""

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
