"""Binning: sums and means of an image's blocks, squares of pixels, cut off at the lower and the right border."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def block_sums(values: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Sums of squares of `side` px, in float32.

    Parameters
    ----------
    values
        (Y, X) numbers or bool.
    side
        Of the squares in px, 1 or more; those at the end of an axis have fewer rows or columns.

    Returns
    -------
    (ceil(Y / side), ceil(X / side)) float32.

    Notes
    -----
    Whole rows are added to each other, which keeps a processor's vector units busy; `np.add.reduceat` does not.
    """
    rows = _added(values, side)
    return np.ascontiguousarray(_added(rows.T, side).T)


def block_means(values: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Means of squares of `side` px, those at the end of an axis of fewer pixels; otherwise as `block_sums`."""
    heights, widths = (np.diff(np.arange(0, n, side), append=n).astype(np.float32) for n in values.shape)
    sums = block_sums(values, side)
    sums /= heights[:, None]
    sums /= widths
    return sums


def _added(values: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Sums of `side` neighbours along the first axis."""
    sums = values[::side].astype(np.float32)
    for k in range(1, min(side, len(values))):
        part = values[k::side]
        sums[: len(part)] += part
    return sums
