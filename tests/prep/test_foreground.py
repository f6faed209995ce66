"""Foreground: rough and unlike pixels of drawn cells are found, whatever the gain, the shading, and the bands."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from cellweave.core.errors import InputError
from cellweave.prep import foreground as module
from cellweave.prep.foreground import REACHED, SCALE, foreground, otsu, textured

Pair = tuple[NDArray[np.float32], NDArray[np.bool_]]


def disks(size: int = 256, radius: float = 20.0) -> NDArray[np.bool_]:
    """Disks on a grid, far apart."""
    y, x = np.mgrid[:size, :size] % 64 - 32
    return np.asarray(np.hypot(y, x) < radius)


def grainy(mask: NDArray[np.bool_], seed: int = 0) -> NDArray[np.float32]:
    """Cells with grains of the mean brightness of the background, which is shaded and has noise."""
    rng = np.random.default_rng(seed)
    grains = ndimage.gaussian_filter(rng.normal(size=mask.shape), 1.5)
    shade = np.linspace(80, 120, mask.shape[1])
    return (shade + 12 * grains / grains.std() * mask + rng.normal(0, 1, mask.shape)).astype(np.float32)


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_cells_as_bright_as_the_background_are_found_by_texture() -> None:
    truth = disks()
    assert overlap(foreground(grainy(truth)), truth) > 0.8


def test_texture_reaches_beyond_the_edge_by_no_more_than_a_window() -> None:
    truth = disks()
    rough, exact = textured(grainy(truth)), foreground(grainy(truth))
    assert (exact <= rough).all()
    assert rough.sum() > 1.05 * exact.sum()
    assert ndimage.distance_transform_edt(~exact)[rough].max() <= REACHED * SCALE + 2


@pytest.mark.parametrize("contrast", [-30, 30])
def test_smooth_cells_are_found_whole_by_intensity(contrast: float) -> None:
    truth = disks(radius=16)
    plane = 100 + contrast * ndimage.gaussian_filter(truth.astype(float), 1)
    plane += np.random.default_rng(0).normal(0, 1, truth.shape)
    assert overlap(foreground(plane), truth) > 0.9


def test_gain_and_offset_change_nothing() -> None:
    plane = grainy(disks())
    assert np.array_equal(foreground(plane), foreground(4 * plane - 100))


def test_a_turned_image_has_the_turned_foreground() -> None:
    plane = grainy(disks())
    assert overlap(np.rot90(foreground(plane)), foreground(np.rot90(plane).copy())) > 0.999


def test_a_confluent_layer_is_all_foreground_and_noise_is_none() -> None:
    shape = (200, 300)
    assert foreground(grainy(np.ones(shape, bool))).all()
    assert not foreground(np.random.default_rng(0).normal(100, 5, shape)).any()
    assert not foreground(np.full(shape, 7, np.uint8)).any()


def test_one_cell_in_a_large_empty_image_is_found() -> None:
    truth = np.zeros((600, 600), bool)
    truth[300:330, 300:330] = True
    found = foreground(grainy(truth))
    assert overlap(found, truth) > 0.6


def test_small_holes_and_pieces_are_none() -> None:
    truth = np.zeros((256, 256), bool)
    truth[60:200, 60:200] = True
    plane = grainy(truth)
    plane[120:124, 120:124] = plane.mean()
    plane[20, 20] += 60
    found = foreground(plane)
    assert found[100:160, 100:160].all()
    assert not found[:40, :40].any()


def test_bands_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = grainy(disks(320))
    whole = foreground(plane)
    monkeypatch.setattr(module, "_BAND", 37)
    assert np.array_equal(foreground(plane), whole)


@pytest.mark.parametrize("shape", [(1, 1), (1, 80), (2, 2), (80, 1), (3, 3)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    found = foreground(np.random.default_rng(0).random(shape))
    assert found.shape == shape
    assert found.dtype == bool


def test_nan_is_background_and_the_input_stays() -> None:
    plane = grainy(disks())
    plane[:40] = np.nan
    before = plane.copy()
    found = foreground(plane)
    assert not found[:40].any()
    assert overlap(found[80:], disks()[80:]) > 0.7
    assert np.array_equal(plane, before, equal_nan=True)
    assert not foreground(np.full((50, 50), np.nan)).any()


def test_the_threshold_is_that_of_otsu() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 4000), rng.normal(8, 2, 1500)])
    assert otsu(values) == pytest.approx(threshold_otsu(values), abs=0.5)
    assert 1 < otsu(np.array([1.0, 5.0])) <= 5


@pytest.mark.parametrize(
    ("plane", "scale", "said"),
    [
        (np.zeros((3, 4, 4)), 3.0, "shape"),
        (np.zeros((0, 4)), 3.0, "shape"),
        (np.zeros((4, 4), complex), 3.0, "complex"),
        (np.zeros((4, 4)), 0.0, "scale"),
        (np.zeros((4, 4)), np.nan, "scale"),
    ],
)
def test_bad_input(plane: NDArray[np.float64], scale: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        foreground(plane, scale=scale)


@pytest.mark.shared_data
def test_clicks_on_cells_are_in_the_foreground_and_those_on_background_are_not(shared_data: object) -> None:
    from pathlib import Path

    from cellweave.io import read_annotations, read_image

    folder = Path(str(shared_data)) / "phase_points"
    files = [folder / "label_studio" / name for name in ("points2.json", "background.json")]
    marked = read_annotations(files)["1"]
    found = foreground(read_image(folder / "images" / "1.jpg").read().mean(axis=0))
    on, off = (np.round(p).astype(int) for p in (marked.points.positions, marked.background_points))
    assert found[tuple(on.T)].mean() > 0.98
    assert found[tuple(off.T)].mean() < 0.1
