"""cellweave finds, outlines and counts cells in any microscope image.

The public names are imported when first used, so that ``import cellweave`` costs nothing.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# PyTorch on Linux asks for large pages then, where the system grants them: a net spends a third of its time on a
# processor in getting small ones. PyTorch reads this once, when it makes its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from cellweave.core.image import Image as Image
    from cellweave.io import read_image as read_image
    from cellweave.io import write_labels as write_labels
    from cellweave.metrics import evaluate as evaluate
    from cellweave.models import Segmenter as Segmenter
    from cellweave.models import load_model as load_model
    from cellweave.predict import count as count
    from cellweave.predict import predict_maps as predict_maps
    from cellweave.predict import segment as segment
    from cellweave.train import train as train

_HOME = {
    "Image": "core.image",
    "Segmenter": "models",
    "count": "predict",
    "evaluate": "metrics",
    "load_model": "models",
    "predict_maps": "predict",
    "read_image": "io",
    "segment": "predict",
    "write_labels": "io",
}
__all__ = [
    "Image",
    "Segmenter",
    "count",
    "evaluate",
    "load_model",
    "predict_maps",
    "read_image",
    "segment",
    "train",
    "write_labels",
]


def __getattr__(name: str) -> Any:
    if name in ("metrics", "representations", "simulate", "train"):  # train is a package that can be called
        value = import_module(f"cellweave.{name}")
    elif name in _HOME:
        value = getattr(import_module(f"cellweave.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'cellweave' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
