"""Marker-controlled watershed: a landscape is flooded from markers, and each takes the pixels its water reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave import _kernels
from cellweave.core.errors import InputError
from cellweave.core.labels import Labels, as_labels


def watershed(landscape: NDArray[Any], markers: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Labels:
    """Flood a landscape from markers, the lowest pixels first, and give every pixel the id of the water it gets.

    Water moves between 4-neighbours. The pass height of a pixel is the least height to which water must rise to come
    there from any marker: the smallest possible maximum of the landscape along a path, its ends included. A pixel takes
    the label of its neighbour of the least pass height. Where all heights differ, this is the flooding with a priority
    queue (Beucher & Meyer 1993; Meyer 1994), and the labels are those of
    ``skimage.segmentation.watershed(landscape, markers, connectivity=1, mask=mask)``.

    Ties are equal pass heights of neighbours: plateaus of the landscape, and hollows without a marker, which fill up to
    one level. There all water spreads breadth-first, one pixel a step, and starts at the same time: from the markers of
    this height, and from the pixels that border on lower water. So a pixel of a constant landscape goes to the nearest
    marker. Where a pixel can still choose, it takes the first of its upper, left, right and lower neighbour: of those
    of one lower pass height, or of those that are one step nearer. skimage spreads breadth-first too, but it chooses by
    the order of its queue, and floods a hollow at once; there the labels can differ, at the same pass heights.

    The result does not depend on the number of threads, and the ids do not matter to it.

    Parameters
    ----------
    landscape
        (Y, X) numbers, taken as float32. NaN counts as infinity: both are flooded last.
    markers
        (Y, X) whole numbers, 0 = no marker. A marker may have any number of pixels; those outside the mask are ignored.
    mask
        (Y, X) bool, where to flood; everywhere by default.

    Returns
    -------
    labels
        (Y, X) int32 with the ids of the markers; 0 outside the mask and in its parts without a marker.

    Raises
    ------
    InputError
        When the arrays differ in shape, are not 2-D images of the types above, or have more than 2**31 - 1 pixels.

    Notes
    -----
    Pass heights are found without a queue. Each pixel drains to its lowest neighbour; the basins without a marker
    are joined over their lowest passes in the rounds of Boruvka's minimum spanning tree, on all cores. Memory beside
    input and output: 5 bytes a pixel, 20 bytes for each regional minimum without a marker, 4 bytes for each pair of
    neighbours between those that are left after the first round; a copy of the markers, and of other inputs that are
    not C-contiguous arrays of the types named.
    """
    landscape, markers = np.asarray(landscape), as_labels(markers, "markers")
    if landscape.ndim != 2 or landscape.dtype.kind not in "buif":
        raise InputError(
            f"landscape: an image of real numbers has 2 dimensions (Y, X), "
            f"this one is {landscape.dtype} of shape {landscape.shape}"
        )
    if markers.shape != landscape.shape:
        raise InputError(
            f"markers have the shape {markers.shape}, the landscape has {landscape.shape}; they must agree"
        )
    if landscape.size >= 2**31:
        raise InputError(f"landscape: {landscape.size} pixels are more than 2147483647; flood it in blocks")
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != np.bool_:
            raise InputError(f"mask: must be of type bool, this one is {mask.dtype}; compare it with a threshold")
        if mask.shape != landscape.shape:
            raise InputError(f"mask has the shape {mask.shape}, the landscape has {landscape.shape}; they must agree")
        mask = np.ascontiguousarray(mask)
    labels = np.empty(landscape.shape, np.int32)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
        heights = np.ascontiguousarray(landscape, np.float32)
    _kernels.watershed(heights, np.ascontiguousarray(markers), mask, labels)
    return labels
