"""Outlines from points: cells meet at their borders, end at the foreground and the radius, and the rest is unknown."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from cellweave.core.errors import InputError
from cellweave.core.points import DEBRIS, LIVE, Points
from cellweave.metrics import match
from cellweave.train.pseudo_masks import masks_from_points


def cells(labels: NDArray[np.int32], sign: float) -> NDArray[np.float32]:
    """A picture of the cells with lines between them that are brighter (sign 1) or darker."""
    line = (ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3)) & (labels > 0)
    plane = 100 + sign * 60 * ndimage.gaussian_filter(line.astype(np.float32), 1)
    return (plane + np.random.default_rng(0).normal(0, 2, labels.shape)).astype(np.float32)


def columns() -> NDArray[np.int32]:
    """Touching cells of different widths, so that borders are not halfway between the middles."""
    labels = np.zeros((80, 200), np.int32)
    for k, (start, stop) in enumerate([(10, 40), (40, 58), (58, 90), (90, 110), (110, 150)], 1):
        labels[20:60, start:stop] = k
    return labels


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_cells_meet_at_their_borders(sign: float) -> None:
    truth = columns()
    plane = cells(truth, sign)
    points = Points.from_labels(truth)
    found = masks_from_points(plane, points, mask=truth > 0, radius=40)
    assert match(truth, found.labels, 0.9).f1 == 1
    assert [truth[y, x] for y, x in points.positions.round().astype(int)] == [1, 2, 3, 4, 5]
    assert found.known.all()


def test_without_lines_they_meet_halfway() -> None:
    points = Points(np.array([[20.0, 20], [20, 40]]), shape=(41, 61))
    labels, _ = masks_from_points(np.zeros((41, 61)), points, mask=np.ones((41, 61), bool), radius=100)
    assert (labels[:, :30] == 1).all()
    assert (labels[:, 31:] == 2).all()


def test_nothing_is_beyond_the_radius_and_it_is_unknown() -> None:
    points = Points(np.array([[30.0, 30]]), shape=(61, 91))
    mask = np.ones((61, 91), bool)
    mask[:5] = False
    labels, known = masks_from_points(np.zeros((61, 91)), points, mask=mask, radius=12)
    y, x = np.mgrid[:61, :91]
    assert np.array_equal(labels > 0, np.hypot(y - 30, x - 30) <= 12)
    assert np.array_equal(known, (labels > 0) | ~mask)


def test_a_point_on_the_background_has_a_small_cell() -> None:
    points = Points(np.array([[10.0, 10]]), shape=(40, 40))
    labels, known = masks_from_points(np.zeros((40, 40)), points, mask=np.zeros((40, 40), bool))
    assert 20 < (labels == 1).sum() < 40
    assert known.all()


def test_debris_keeps_cells_away_and_is_background() -> None:
    both = Points(np.array([[20.0, 20], [20, 40], [20, 60]]), np.array([LIVE, DEBRIS, LIVE]), shape=(41, 81))
    labels, known = masks_from_points(np.zeros((41, 81)), both, mask=np.ones((41, 81), bool), radius=15)
    assert set(np.unique(labels)) == {0, 1, 2}
    assert labels[20, 40] == 0
    assert known[20, 40]
    assert labels[20, 60] == 2
    assert not known[0, 0]


def test_order_of_the_points_only_changes_ids() -> None:
    truth = columns()
    plane, points = cells(truth, 1), Points.from_labels(truth)
    turned = points[np.array([3, 1, 4, 0, 2])]
    one = masks_from_points(plane, points, mask=truth > 0).labels
    other = masks_from_points(plane, turned, mask=truth > 0).labels
    assert np.array_equal(one, np.array([0, 4, 2, 5, 1, 3])[other])


def test_no_points_two_on_one_pixel_and_nan() -> None:
    shape = (50, 50)
    labels, known = masks_from_points(np.zeros(shape), Points(np.empty((0, 2))))
    assert not labels.any()
    assert known.all()
    twice = Points(np.array([[20.0, 20], [20.2, 20.1]]), shape=shape)
    plane = np.full(shape, np.nan)
    assert set(np.unique(masks_from_points(plane, twice, mask=np.ones(shape, bool)).labels)) == {0, 2}


def test_bad_input() -> None:
    plane, points = np.zeros((30, 40)), Points(np.array([[5.0, 35]]))
    with pytest.raises(InputError, match="one"):
        masks_from_points(plane, points, mask=np.ones((40, 30), bool))
    with pytest.raises(InputError, match="exchanged"):
        masks_from_points(plane.T, points)
    with pytest.raises(InputError, match="radius"):
        masks_from_points(plane, points, radius=0)


@pytest.mark.shared_data
def test_clicks_of_phase_contrast_have_cells_of_the_size_of_their_boxes(shared_data: object) -> None:
    from pathlib import Path

    from cellweave.core.labels import median_diameter
    from cellweave.io import read_annotations, read_image

    folder = Path(str(shared_data)) / "phase_points"
    points = read_annotations(folder / "label_studio" / "points2.json")["1"].points
    plane = read_image(folder / "images" / "1.jpg").read().mean(axis=0)
    labels, known = masks_from_points(plane, points)
    assert len(np.unique(labels)) == len(points.cells) + 1
    assert 22 < median_diameter(labels) < 38
    assert 0.05 < (~known).mean() < 0.4
