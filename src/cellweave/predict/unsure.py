"""Where a count should not be believed: dense layers in which no cell can be told, and doubtful cells."""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from cellweave.core.binning import block_means
from cellweave.core.points import Points
from cellweave.prep.foreground import SCALE, textured

Mask = NDArray[np.bool_]

BLOCK = 8
"""Maps of doubt are made of squares of so many px."""
COARSE = 2
"""The texture is looked at on squares of so many px, which hides no cell and takes a quarter of the time."""
REACH, FURTHEST = 26.0, 52.0
"""A found cell explains the foreground within the first distance in px, the thesis' region that a click makes known, or
more where cells are farther apart, up to the second."""
APART = 1.5
"""Of the median distance to the nearest neighbour, so much is explained."""
SMALLEST = 1.2
"""Radius of the smallest crowded region, times the distance that a cell explains: smaller ones are lone objects."""
WIDTH = 10.0
"""Standard deviation in px of the window in which density and found cells are compared: about a cell."""
DOUBT = 0.5
"""Cells by which density and found cells differ around a place, and confidence of an object, that make it doubtful."""


def crowded(plane: NDArray[np.floating], points: Points, covered: Mask | None = None) -> Mask:
    """Where the texture says cells, and none is found.

    Regions of high confluence, in which people and nets cannot tell one cell from the next, are left empty by both.
    They look like cells (`cellweave.prep.foreground.textured`), are far from all found ones, and have room for several.

    Parameters
    ----------
    plane
        (Y, X): what the net sees.
    points
        The cells that were found.
    covered
        (Y, X) pixels of cells that were outlined, however far they are from their middle.

    Returns
    -------
    mask
        (Y, X) bool, in squares of `BLOCK` px.
    """
    texture = textured(block_means(plane, COARSE), scale=SCALE / COARSE)
    empty = block_means(texture, BLOCK // COARSE) >= 0.5
    if covered is not None:
        empty &= block_means(covered, BLOCK) < 0.5
    reach = REACH
    if len(points):
        tree = cKDTree(points.positions)
        if len(points) > 1:
            apart = float(np.median(tree.query(points.positions, k=2)[0][:, 1]))
            reach = min(max(REACH, APART * apart), FURTHEST)
        rows, columns = np.nonzero(empty)
        middles = np.stack([rows, columns], axis=1) * BLOCK + (BLOCK - 1) / 2
        empty[rows, columns] = tree.query(middles, distance_upper_bound=reach)[0] > reach
    radius = reach / (2 * BLOCK)
    around = np.ceil(radius).astype(int)
    rows, columns = np.ogrid[-around : around + 1, -around : around + 1]
    padded = np.pad(empty, around, mode="edge")  # cells go on beyond the image
    wide = ndimage.binary_opening(padded, rows**2 + columns**2 <= radius**2)[around:-around, around:-around]
    smallest = round(np.pi * (SMALLEST * reach / BLOCK) ** 2)
    return _pixels(cc3d.dust(wide, threshold=smallest, connectivity=8), plane.shape)


def unresolved(density: NDArray[np.float32], explained: NDArray[np.float32]) -> Mask:
    """Where a density (Y, X) and that of the found cells differ by half a cell or more, in a window about a cell wide.

    A cell that no maximum stands for, half a cell that one does stand for, a plain of density without maxima.
    """
    difference = ndimage.gaussian_filter(block_means(density - explained, BLOCK), WIDTH / BLOCK, mode="constant")
    return _pixels(np.abs(difference) * (2 * np.pi * WIDTH**2) >= DOUBT, density.shape)


def _pixels(blocks: Mask, shape: tuple[int, ...]) -> Mask:
    return blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[: shape[0], : shape[1]]
