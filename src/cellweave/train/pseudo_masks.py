"""Outlines from points: a watershed from every point within the foreground, to fine-tune models of outlines."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellweave.core.errors import InputError
from cellweave.core.labels import Labels
from cellweave.core.points import DEBRIS, Points
from cellweave.core.watershed import watershed
from cellweave.prep.foreground import foreground
from cellweave.train.samples import Example

Mask = NDArray[np.bool_]

RADIUS = 20.0
"""Half the diameter of a cell in phase contrast at 20x, in px."""
SMOOTH = 2.0
NEARNESS = 3.0
"""Weight of the distance from the point beside the brightness of borders. On phase-contrast cells whose boxes or
outlines are known, 3 was better than 0, 1, and distance alone."""
CORE = 3.0
"""A point is within its cell, and so are the pixels nearer than this, in px, though they may look like background."""


class PseudoMasks(NamedTuple):
    """What `masks_from_points` made.

    Attributes
    ----------
    labels
        (Y, X): cell k of the points, from 0 and without debris, has the id k + 1. Of cells in one pixel the last one
        has it.
    known
        (Y, X) bool: cells, debris and background. The rest is foreground that no point accounts for: cells that no
        one annotated, and parts of cells beyond the radius. `Example.known` takes it.
    """

    labels: Labels
    known: Mask


def masks_from_points(
    plane: NDArray[np.floating],
    points: Points,
    *,
    mask: Mask | None = None,
    radius: float = RADIUS,
) -> PseudoMasks:
    """Guess the outline of each cell from the point on it.

    The watershed rises from all points at once, over the smoothed brightness of the plane plus the distance from the
    nearest point, so that cells meet at the bright line between them, or halfway where there is none. It ends at the
    edge of the foreground, and at `radius`. Debris has its own region, which then is background.

    Where points are brighter than the foreground, as in fluorescence, dark lines part cells in place of bright ones.

    Parameters
    ----------
    plane
        (Y, X), any range of values.
    points
        One a cell.
    mask
        (Y, X) bool, the foreground; `cellweave.prep.foreground` without it.
    radius
        Largest distance of a cell's pixel from its point in px: about half a cell's diameter.

    Raises
    ------
    InputError
        When shapes differ, points lie outside, or the radius is not positive.
    """
    plane = np.asarray(plane)
    mask = foreground(plane) if mask is None else np.asarray(mask, np.bool_)
    if plane.ndim != 2 or mask.shape != plane.shape or points.shape not in (None, plane.shape):
        raise InputError(
            f"the plane is {plane.shape}, the mask {mask.shape}, the image of the points {points.shape}; "
            "all must be of one (Y, X) image"
        )
    if not 0 < radius < np.inf:
        raise InputError(f"radius is {radius:g} px; give about half a cell's diameter")
    if not len(points):
        return PseudoMasks(np.zeros(plane.shape, np.int32), ~mask)
    markers = _markers(points, plane.shape)
    distance = edt.edt(markers == 0)
    core = distance < CORE
    flooded = watershed(
        _landscape(plane, mask | core, markers > 0) + NEARNESS / radius * distance,
        markers,
        (mask | core) & (distance <= radius),
    )
    is_debris = points.classes == DEBRIS
    ids = np.concatenate([[0], np.where(is_debris, 0, np.cumsum(~is_debris))]).astype(np.int32)
    return PseudoMasks(ids[flooded], ~mask | (flooded > 0))


def _markers(points: Points, shape: tuple[int, ...]) -> Labels:
    """The number of each point, from 1, at its pixel."""
    rows, columns = np.rint(points.positions).astype(int).T
    if rows.min() < 0 or columns.min() < 0 or rows.max() >= shape[0] or columns.max() >= shape[1]:
        raise InputError(f"points lie outside the image of {shape[0]} x {shape[1]} px; are rows and columns exchanged?")
    markers = np.zeros(shape, np.int32)
    markers[rows, columns] = np.arange(1, len(points) + 1)
    return markers


def outlined(example: Example) -> Example:
    """The example with outlines from its points, by the mean of its channels; the rest of its foreground is unknown.

    An example that has labels stays as it is.
    """
    if isinstance(example.labels, np.ndarray):
        return example
    plane = example.image.read().mean(axis=0, dtype=np.float32)
    labels, known = masks_from_points(plane, example.labels)
    return replace(example, labels=labels, known=known if example.known is None else known & example.known)


def _landscape(plane: NDArray[np.floating], mask: Mask, points: Mask) -> NDArray[np.float32]:
    """Smoothed brightness in standard deviations of the cells', high on borders; 0 where it is not known."""
    finite = np.isfinite(plane)
    level = float(plane[finite].mean()) if finite.any() else 0.0
    smooth = ndimage.gaussian_filter(np.where(finite, plane - level, 0).astype(np.float32), SMOOTH)
    spread = float(smooth[mask].std())
    sign = -1 if smooth[points].mean() > smooth[mask].mean() else 1
    return np.asarray(sign * smooth / spread if spread > 0 else 0 * smooth, np.float32)
