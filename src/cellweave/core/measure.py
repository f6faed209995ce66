"""The object table: what `measure` says of every cell."""

from __future__ import annotations

from typing import Any

import fastremap
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave import _kernels
from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.labels import Labels, as_labels, relabel

Table = dict[str, NDArray[Any]]
"""Columns of equal length, one row an object, in the order of the ids."""

_BAND_PIXELS = 1 << 22


def measure(labels: Labels, image: Image | None = None, confidence: ArrayLike | None = None) -> Table:
    """Measure every object of a label image.

    Sizes are in pixels and pixel centres lie on whole numbers; columns that end in ``_um`` or ``_um2`` are
    there when the image has a pixel size. The definitions are those of `skimage.measure.regionprops`:

    - ``centroid_y``, ``centroid_x``: mean of the pixel centres. ``area``: pixels.
      ``diameter``: of the disk of that area, ``2 * sqrt(area / pi)``.
    - ``bbox_y0, bbox_x0, bbox_y1, bbox_x1``: bounding box, the end not included.
    - ``eccentricity``: of the ellipse with the same second central moments (0 a circle, 1 a line).
    - ``solidity``: area over the number of pixel centres within the convex hull, borders included. The hull
      is that of the middles of the four sides of every pixel, computed in whole numbers (skimage computes
      it in floating point; the two counts were equal in every comparison made).
    - ``mean_<channel>``: mean of the finite pixels of a channel; NaN for an object without any. Channels
      without a name are ``channel_1`` and so on.

    Parameters
    ----------
    labels
        (Y, X) label image; ids need not be sequential.
    image
        (C, Y, X) image of the same height and width, for intensities and pixel size. Lazy images are read
        band by band.
    confidence
        One number an object, in the order of the ids, copied to the column ``confidence``.

    Returns
    -------
    dict of arrays
        Columns of equal length. ``area_um2`` uses both pixel sides, ``diameter_um`` is that of the disk of
        this area.

    Raises
    ------
    InputError
        When the sizes of labels and image differ, or `confidence` has another length.
    """
    labels = as_labels(labels)
    ids = np.asarray(fastremap.unique(labels), np.int64)
    ids = ids[ids > 0]
    if len(ids) and ids[-1] != len(ids):
        labels, ids = relabel(labels)
    moments = np.empty((len(ids), 12), np.int64)
    _kernels.object_moments(labels, moments)
    boxes, area = np.ascontiguousarray(moments[:, 1:5]), moments[:, 0]
    convex = np.empty(len(ids), np.int64)
    _kernels.convex_areas(labels, boxes, convex)
    n = area.astype(np.float64)
    table: Table = {
        "id": ids,
        "centroid_y": moments[:, 5] + moments[:, 7] / n,
        "centroid_x": moments[:, 6] + moments[:, 8] / n,
        "area": area.copy(),
        "diameter": 2 * np.sqrt(n / np.pi),
        **{name: boxes[:, i].copy() for i, name in enumerate(("bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1"))},
        "eccentricity": _eccentricity(moments),
        "solidity": n / convex,
    }
    if image is not None:
        table |= mean_intensities(labels, len(ids), image)
    if confidence is not None:
        scores = np.asarray(confidence, np.float64)
        if scores.shape != ids.shape:
            raise InputError(f"confidence has shape {scores.shape} for {len(ids)} objects; give one number an object")
        table["confidence"] = scores.copy()
    if image is not None and image.pixel_size_um is not None:
        y, x = image.pixel_size_um
        table["area_um2"] = n * (y * x)
        table["diameter_um"] = table["diameter"] * np.sqrt(y * x)
        table["centroid_y_um"] = table["centroid_y"] * y
        table["centroid_x_um"] = table["centroid_x"] * x
    return table


def _eccentricity(moments: NDArray[np.int64]) -> NDArray[np.float64]:
    """sqrt(1 - l2 / l1) of the eigenvalues of the second central moments; 0 for a single pixel."""
    n, sy, sx, syy, sxx, sxy = moments[:, [0, 7, 8, 9, 10, 11]].T.astype(np.float64)
    yy, xx, xy = n * syy - sy * sy, n * sxx - sx * sx, n * sxy - sy * sx
    middle, radius = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    large, small = middle + radius, np.maximum(middle - radius, 0)
    roundness = np.divide(small, large, out=np.ones_like(large), where=large > 0)
    return np.asarray(np.sqrt(1 - roundness))


def mean_intensities(labels: Labels, n: int, image: Image) -> Table:
    """The columns ``mean_<channel>`` of `measure`, for ids 1..n; an id without pixels has NaN.

    Raises
    ------
    InputError
        When the sizes of labels and image differ.
    """
    image = image.plane()
    if labels.shape != (image.height, image.width):
        raise InputError(
            f"the labels are {labels.shape[0]} x {labels.shape[1]}, the image is "
            f"{image.height} x {image.width}; give the labels of this image"
        )
    sums, counts = np.zeros((2, image.n_channels, n + 1))
    step = max(1, _BAND_PIXELS // (image.width * image.n_channels))
    for start in range(0, image.height, step):
        y = slice(start, min(image.height, start + step))
        pixels = image.read(y).reshape(image.n_channels, -1)
        index = labels[y].ravel()
        inside = np.flatnonzero(index)
        index = index[inside]
        for channel in range(image.n_channels):
            values = pixels[channel, inside].astype(np.float64)
            finite = np.isfinite(values)
            used = index if finite.all() else index[finite]
            sums[channel] += np.bincount(used, values[finite], minlength=n + 1)
            counts[channel] += np.bincount(used, minlength=n + 1)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return {f"mean_{name}": mean[1:] for name, mean in zip(_names(image), means, strict=True)}


def _names(image: Image) -> list[str]:
    """A name for each channel, all different."""
    names: list[str] = []
    for i, name in enumerate(image.channel_names, start=1):
        name = name or f"channel_{i}"
        while name in names:
            name = f"{name}_{i}"
        names.append(name)
    return names
