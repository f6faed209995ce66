"""The picture shows the image with a dot on every cell, a cross on debris, and shaded regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.points import DEBRIS, LIVE, Points
from cellweave.io import render_points, write_points_overlay
from cellweave.io.overlay import render_image
from cellweave.io.point_overlay import CELL, DEAD, TINT


def gray(height: int = 90, width: int = 120) -> Image:
    return Image(np.random.default_rng(0).integers(0, 60, (1, height, width)).astype(np.uint8))


def centres(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """Middle of all pixels of this colour."""
    return np.argwhere((picture == colour).all(axis=2)).mean(axis=0)


def test_cells_are_dots_and_debris_crosses() -> None:
    picture = render_points(gray(), Points([[20, 30], [60, 100]], np.array([LIVE, DEBRIS]), shape=(90, 120)))
    assert (picture.shape, picture.dtype) == ((90, 120, 3), np.uint8)
    np.testing.assert_allclose(centres(picture, CELL), (20, 30), atol=0.5)
    np.testing.assert_allclose(centres(picture, DEAD), (60, 100), atol=0.5)
    changed = (picture != render_image(gray())).any(axis=2)
    assert changed.sum() < 60


def test_nothing_to_draw_leaves_the_image() -> None:
    none = Points(np.empty((0, 2)))
    assert np.array_equal(render_points(gray(), none), render_image(gray()))
    assert np.array_equal(render_points(gray(), none, np.zeros((90, 120), bool)), render_image(gray()))


def test_regions_are_shaded() -> None:
    region = np.zeros((90, 120), bool)
    region[:40] = True
    plain, picture = render_image(gray()), render_points(gray(), Points(np.empty((0, 2))), region)
    assert np.array_equal(picture[40:], plain[40:])
    np.testing.assert_allclose(picture[:40], 0.65 * plain[:40] + 0.35 * np.array(TINT), atol=1)


def test_large_images_are_shown_smaller_with_the_dots_in_place() -> None:
    region = np.zeros((1000, 2000), bool)
    region[:500] = True
    points = Points([[200, 1500], [-0.4, -0.4], [999, 1999]])
    picture = render_points(gray(1000, 2000), points[:1], region, longest_side=500)
    assert picture.shape == (250, 500, 3)
    np.testing.assert_allclose(centres(picture, CELL), (200.5 / 4 - 0.5, 1500.5 / 4 - 0.5), atol=0.5)
    assert ((picture[..., 0] > picture[..., 2])[:124]).mean() > 0.99
    assert ((picture[..., 0] == picture[..., 2])[126:]).all()
    assert render_points(gray(1000, 2000), points, longest_side=500).shape == (250, 500, 3)  # dots on the rim


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="points are of an image of"):
        render_points(gray(), Points([[1, 1]], shape=(120, 90)))
    with pytest.raises(InputError, match="shaded region"):
        render_points(gray(), Points([[1, 1]]), np.zeros((9, 9), bool))
    with pytest.raises(InputError, match=r"written as \.png"):
        write_points_overlay(tmp_path / "a.jpg", gray(), Points([[1, 1]]))
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_what_is_drawn(tmp_path: Path) -> None:
    points = Points([[20, 30]])
    write_points_overlay(tmp_path / "a.png", gray(), points)
    with Pillow.open(tmp_path / "a.png") as picture:
        assert np.array_equal(np.array(picture), render_points(gray(), points))
