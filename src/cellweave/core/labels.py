"""Operations on label images: integer arrays, 0 = background, ids 1..n, (Y, X), int32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError

Labels = NDArray[np.int32]


def as_labels(labels: NDArray[Any], name: str = "labels") -> Labels:
    """Check that `labels` is a 2-D image of non-negative whole numbers and give it as int32 (ids kept).

    Raises
    ------
    InputError
        For other dimensions, negative or fractional values, NaN, or ids over 2**31 - 1; says `name`.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise InputError(f"{name}: a label image has 2 dimensions (Y, X), this one has shape {labels.shape}")
    if labels.dtype.kind == "f":
        whole = np.isfinite(labels).all() and bool((labels == np.floor(labels)).all())
        if not whole:
            raise InputError(
                f"{name}: label images hold whole numbers (0 = background, one id a cell); this one holds "
                f"fractions or NaN ({labels.dtype}); is it a probability map or an intensity image?"
            )
    elif labels.dtype.kind not in "bui":
        raise InputError(f"{name}: label images hold whole numbers, this one is {labels.dtype}")
    if labels.size and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise InputError(f"{name}: ids must be between 0 and 2147483647; found {labels.min()} to {labels.max()}")
    return labels.astype(np.int32)


def relabel(labels: Labels) -> tuple[Labels, NDArray[np.int64]]:
    """Make ids sequential from 1, in the order of the ids. Returns (labels, old id of each new id)."""
    import fastremap  # here, because training from prepared samples runs where only NumPy and PyTorch are

    ids = np.asarray(fastremap.unique(labels), dtype=np.int64)
    ids = ids[ids > 0]
    if len(ids) == 0 or ids[-1] == len(ids):
        return labels.copy(), ids
    if ids[-1] > 4 * labels.size + 65536:  # a table of all possible ids would be larger than the image
        return np.searchsorted(ids, labels, side="right").astype(np.int32), ids
    lookup = np.zeros(int(ids[-1]) + 1, dtype=np.int32)
    lookup[ids] = np.arange(1, len(ids) + 1, dtype=np.int32)
    return lookup[labels], ids


def areas(labels: Labels) -> NDArray[np.int64]:
    """Pixels of each object, in the order of the ids that occur."""
    import fastremap

    ids, counts = fastremap.unique(labels, return_counts=True)
    return np.asarray(counts[ids > 0], dtype=np.int64)


def diameters(labels: Labels) -> NDArray[np.float64]:
    """Diameter of each object in px: that of the disk of its area, ``2 * sqrt(area / pi)``."""
    return 2.0 * np.sqrt(areas(labels) / np.pi)


def median_diameter(labels: Labels) -> float:
    """Median object diameter in px; 0 for an image without objects."""
    found = diameters(labels)
    return float(np.median(found)) if len(found) else 0.0


def resize_labels(labels: Labels, height: int, width: int) -> Labels:
    """Labels (Y, X) to (height, width) by the nearest pixel: ids are never mixed."""
    rows = ((np.arange(height) + 0.5) * labels.shape[0] / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(np.intp)
    return np.asarray(labels[np.ix_(rows, columns)])
