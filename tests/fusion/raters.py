"""Label images that several raters drew of one truth, strategies for random ones, and SimpleITK's filters."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, gaussian_filter

Labels = NDArray[np.int32]


@st.composite
def label_stacks(draw: st.DrawFn, most: int = 4, raters: tuple[int, int] = (1, 5)) -> Labels:
    """(K, Y, X) of a few pixels, labels 0..most, at most `raters` of them."""
    shape = draw(st.tuples(st.integers(*raters), st.integers(1, 4), st.integers(1, 6)))
    return draw(arrays(np.int32, shape, elements=st.integers(0, most)))


def regions(seed: int, raters: int, *, shape: tuple[int, int] = (128, 128)) -> Labels:
    """(K, Y, X): smooth regions of 2 to 5 classes, whose borders each rater draws elsewhere."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 6))

    def fields(sigma: float) -> NDArray[np.float64]:
        smooth = np.stack([gaussian_filter(rng.normal(size=shape), sigma) for _ in range(n)])
        return np.asarray(smooth / smooth.std())

    truth = fields(8)
    drawn = [(truth + rng.uniform(0.1, 0.6) * fields(4)).argmax(axis=0) for _ in range(raters)]
    return np.asarray(drawn, np.int32)


def rater_of(truth: Labels, seed: int, *, seen: float = 0.9, part: float = 0.6) -> Labels:
    """What a reporter shows of cells: some are dark, of the others a part, all a pixel aside; new ids."""
    rng = np.random.default_rng(seed)
    labels = np.zeros_like(truth)
    rows, columns = np.indices(truth.shape)
    towards = rng.uniform(0, 2 * np.pi)
    ids = np.unique(truth[truth > 0])
    for new, old in zip(rng.permutation(len(ids)) + 1, ids, strict=True):
        inside = truth == old
        if rng.random() < seen:
            y, x = center_of_mass(inside)
            angle = towards + rng.normal(0, 0.6)
            along = (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle)
            labels[inside & (along <= np.quantile(along[inside], rng.uniform(part, 1)))] = new
    return np.roll(labels, rng.integers(-1, 2, 2), axis=(0, 1))


def as_sitk(labels: NDArray[Any]) -> list[sitk.Image]:
    """Images of SimpleITK, one a rater."""
    return [sitk.GetImageFromArray(np.ascontiguousarray(image, np.uint8)) for image in labels]


def same_partition(a: Labels, b: Labels) -> bool:
    """Whether two label images are the same up to ids."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    zeros = bool(((pairs[0] == 0) == (pairs[1] == 0)).all())
    return zeros and all(len(np.unique(side)) == pairs.shape[1] for side in pairs)
