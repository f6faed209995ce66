"""Blobs: drawn disks are found at their place, with their size and contrast, and are told from noise."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

from cellweave.core.errors import InputError
from cellweave.core.points import Points
from cellweave.metrics import match_points
from cellweave.predict.blobs import Blobs, _without_nested, find_blobs, fit_threshold


def draw(places: NDArray[np.float64], diameters: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Disks of contrast 1 whose edge pixels are partly covered."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for (row, column), diameter in zip(places, diameters, strict=True):
        image += np.clip(diameter / 2 + 0.5 - np.hypot(y - row, x - column), 0, 1)
    return image


def grid(seed: int = 0, step: int = 80, shape: tuple[int, int] = (320, 400)) -> NDArray[np.float64]:
    """Places far apart, between pixels."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.arange(step / 2, n, step) for n in shape)
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(places + rng.uniform(-5, 5, places.shape))


@pytest.mark.parametrize("dark", [False, True])
def test_disks_are_found_with_place_size_and_contrast(dark: bool) -> None:
    places = grid()
    diameters = np.random.default_rng(1).uniform(8, 36, len(places))
    plane = 100 + (-25 if dark else 25) * draw(places, diameters, (320, 400))
    found = find_blobs(plane, diameters=(6, 40), dark=dark)
    n = len(places)
    assert found.strengths[n - 1] > 2 * found.strengths[n]
    distances = cdist(places, found.positions[:n])
    assert distances.min(axis=1).max() < 0.5
    nearest = distances.argmin(axis=1)
    assert found.diameters[nearest] == pytest.approx(diameters, rel=0.08)
    assert found.strengths[nearest] == pytest.approx(25, rel=0.08)
    assert (np.diff(found.strengths) <= 0).all()


def test_the_response_is_that_of_the_laplacian_of_gaussian() -> None:
    from cellweave.predict.blobs import DISK, _stacks

    image = np.random.default_rng(0).normal(size=(96, 128)).astype(np.float32)
    sigmas = np.array([2.0, 2.8, 4.0, 5.6, 8.0])
    stacks = list(_stacks(image, sigmas))
    assert [step for _, _, step in stacks] == [1, 2, 2]
    for layers, sizes, step in stacks:
        exact = ndimage.gaussian_laplace(image.astype(float), sizes[2], truncate=6) * sizes[2] ** 2 / DISK
        inner = exact[32:-32:step, 32:-32:step]
        ours = layers[2][32 // step :][: len(inner), 32 // step :][:, : inner.shape[1]]
        assert np.abs(ours - inner).max() < 0.08 * np.abs(inner).max()


def test_gain_offset_and_inversion() -> None:
    plane = np.random.default_rng(0).normal(size=(100, 90))
    one, other = find_blobs(plane, diameters=(4, 12)), find_blobs(50 - 3 * plane, diameters=(4, 12), dark=True)
    assert other.positions == pytest.approx(one.positions, abs=1e-2)
    assert other.strengths == pytest.approx(3 * one.strengths, rel=1e-3)


def test_touching_disks_are_two_and_a_speck_in_a_disk_is_none() -> None:
    plane = draw(np.array([[50.0, 40], [50, 61]]), np.array([20.0, 20]), (100, 100))
    plane[50:52, 44:46] += 0.5
    found = find_blobs(plane, diameters=(4, 30)).above(0.4)
    assert len(found) == 2
    assert match_points(np.array([[50, 40], [50, 61]]), found, radius=3).f1 == 1


def test_nested_blobs_are_removed_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    found = np.stack([*rng.uniform(0, 200, (2, 400)), rng.uniform(2, 40, 400), rng.permutation(400) + 1.0], axis=1)
    kept: list[NDArray[np.float64]] = []
    for one in sorted(found, key=lambda row: -row[3]):
        if all(np.hypot(*(one[:2] - other[:2])) > max(one[2], other[2]) / 2 for other in kept):
            kept.append(one)
    assert _without_nested(found, (300, 300)).strengths.tolist() == [one[3] for one in kept]


def test_cells_are_told_from_noise_by_their_contrast() -> None:
    places = grid(step=40)
    plane = 10 * draw(places, np.full(len(places), 14.0), (320, 400))
    plane += np.random.default_rng(0).normal(size=plane.shape)
    found = find_blobs(plane, diameters=(8, 20)).above(5)
    assert match_points(places, found, radius=3).f1 > 0.98
    assert found.shape == (320, 400)
    assert found.confidence is not None
    assert ((found.confidence > 0.5) & (found.confidence < 1)).all()


def test_the_fitted_threshold_is_the_best() -> None:
    rng = np.random.default_rng(0)
    images, truths = [], []
    for seed in range(2):
        places = grid(seed, step=40)
        contrast = rng.uniform(2, 5, len(places))
        y, x = places.round().astype(int).T
        plane = np.zeros((320, 400))
        plane[y, x] = contrast
        plane = ndimage.convolve(plane, draw(np.array([[8.0, 8]]), np.array([14.0]), (17, 17)))
        images.append(plane + rng.normal(size=plane.shape))
        truths.append(Points(places, shape=(320, 400)))
    blobs = [find_blobs(image, diameters=(8, 20)) for image in images]

    def f1(threshold: float) -> float:
        found = [match_points(t, b.above(threshold)) for t, b in zip(truths, blobs, strict=True)]
        return 2 * sum(m.tp for m in found) / sum(2 * m.tp + m.fp + m.fn for m in found)

    best = fit_threshold(blobs, truths)
    assert f1(best) >= max(f1(t) for t in np.linspace(0.5, 4, 15)) - 0.02


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (7, 9)])
def test_tiny_and_constant_images(shape: tuple[int, int]) -> None:
    assert len(find_blobs(np.full(shape, 7, np.uint16), diameters=(4, 20)).strengths) == 0
    found = find_blobs(np.random.default_rng(0).random(shape), diameters=(4, 20)).above(0.1)
    assert found.shape == shape


def test_nan_and_the_input_stays() -> None:
    places = grid()
    plane = draw(places, np.full(len(places), 20.0), (320, 400))
    plane[:4] = np.nan
    before = plane.copy()
    assert match_points(places, find_blobs(plane, diameters=(10, 30)).above(0.5), radius=3).f1 == 1
    assert np.array_equal(plane, before, equal_nan=True)
    assert len(find_blobs(np.full((40, 40), np.nan), diameters=(10, 30)).strengths) == 0


def test_bad_input() -> None:
    plane = np.zeros((40, 40))
    with pytest.raises(InputError, match="shape"):
        find_blobs(np.zeros((3, 40, 40)), diameters=(4, 10))
    with pytest.raises(InputError, match="diameters"):
        find_blobs(plane, diameters=(10, 4))
    with pytest.raises(InputError, match="diameters"):
        find_blobs(plane, diameters=(1, 4))
    blobs = Blobs(np.zeros((1, 2)), np.ones(1), np.ones(1), (40, 40))
    with pytest.raises(InputError, match="both for each"):
        fit_threshold([blobs], [])
    with pytest.raises(InputError, match="no blob"):
        fit_threshold([blobs], [Points(np.array([[30.0, 30]]))])
