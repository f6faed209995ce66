"""Label cleaning: objects in one piece, none too small, ids in order, and a report of what changed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy.ndimage import label as components

from cellweave.core.cleaning import CleaningReport, clean_labels
from cellweave.core.errors import InputError

Labels = NDArray[np.int32]

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
ANY = arrays(np.int32, SHAPES, elements=st.sampled_from([0, 1, 2, 7, 70_000, 2**31 - 1]))


def twin(labels: Labels, min_size: int) -> tuple[Labels, CleaningReport]:
    """One object after the other."""
    clean, ids = np.zeros_like(labels), np.unique(labels[labels > 0])
    split = pieces = removed = kept = 0
    for k in ids:
        parts, n = components(labels == k)  # 4-connected, numbered as a scan by rows meets them
        split, pieces = split + (n > 1), pieces + (n if n > 1 else 0)
        for part in range(1, n + 1):
            if (parts == part).sum() >= min_size:
                kept += 1
                clean[parts == part] = kept
            else:
                removed += 1
    return clean, CleaningReport(len(ids), split, pieces, removed, kept, min_size)


@given(ANY, st.integers(0, 8))
def test_fast_is_slow(labels: Labels, min_size: int) -> None:
    before = labels.copy()
    found, report = clean_labels(labels, min_size=min_size)
    expected, expected_report = twin(labels, min_size)
    assert np.array_equal(found, expected)
    assert report == expected_report
    assert found.dtype == np.int32
    assert np.array_equal(labels, before)
    assert not np.shares_memory(found, labels)


@given(ANY)
def test_clean_labels_stay_as_they_are(labels: Labels) -> None:
    once, report = clean_labels(labels)
    twice, nothing = clean_labels(once)
    assert np.array_equal(once, twice)
    assert not nothing.changed
    assert nothing.objects == nothing.kept == report.kept == once.max()


@given(arrays(np.int32, SHAPES, elements=st.integers(0, 3)), st.sets(st.integers(1, 10**9), min_size=3, max_size=3))
def test_only_the_order_of_ids_matters(labels: Labels, ids: set[int]) -> None:
    found, report = clean_labels(labels)
    other, same = clean_labels(np.array([0, *sorted(ids)], np.int32)[labels])
    assert np.array_equal(found, other)
    assert report == same


def test_pieces_that_touch_at_a_corner_are_two_objects() -> None:
    labels = np.kron(np.eye(2, dtype=np.int32) * 9, np.ones((3, 3), np.int32))
    clean, report = clean_labels(labels)
    assert clean[0, 0] == 1
    assert clean[5, 5] == 2
    assert report == CleaningReport(objects=1, split=1, pieces=2, removed=0, kept=2, min_size=5)
    assert report.changed


def test_five_pixels_stay_and_four_go() -> None:
    labels = np.array([[1, 1, 1, 1, 1, 0, 2, 2, 2, 2]])
    clean, report = clean_labels(labels)
    assert clean.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0, 0, 0]]
    assert report.removed == 1
    assert clean_labels(labels, min_size=4)[0].max() == 2
    assert clean_labels(labels, min_size=0)[0].tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (
            CleaningReport(120, 3, 7, 5, 119, 5),
            "120 objects: 3 not in one piece became 7, 5 under 5 px removed; 119 left",
        ),
        (CleaningReport(1, 1, 2, 0, 2, 5), "1 object: 1 not in one piece became 2; 2 left"),
        (CleaningReport(2, 0, 0, 1, 1, 9), "2 objects: 1 under 9 px removed; 1 left"),
        (CleaningReport(2, 0, 0, 0, 2, 5), "2 objects, nothing to clean"),
        (CleaningReport(0, 0, 0, 0, 0, 5), "0 objects, nothing to clean"),
    ],
)
def test_the_report_is_a_line_and_a_dictionary(report: CleaningReport, said: str) -> None:
    assert str(report) == said
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
    assert CleaningReport(**report.as_dict()) == report


def test_numbers_of_a_report_are_plain() -> None:
    _, report = clean_labels(np.eye(9, dtype=np.uint16))
    assert json.loads(json.dumps(report.as_dict()))["removed"] == 9


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 9), (9, 1)])
def test_odd_sizes(shape: tuple[int, int]) -> None:
    assert clean_labels(np.zeros(shape, np.int32))[0].shape == shape
    assert clean_labels(np.ones(shape, np.int32), min_size=1)[0].sum() == np.prod(shape)


def test_70000_cells_within_two_seconds() -> None:
    ids = np.random.default_rng(0).permutation(265 * 265).astype(np.int32).reshape(265, 265) + 1
    labels = np.kron(ids, np.ones((4, 4), np.int32))
    labels[1::8, 1::8] = 0
    labels[0, :8] = labels[-1, -8]  # pieces of the last object, far away
    started = time.process_time()
    clean, report = clean_labels(labels)
    assert time.process_time() - started < 2
    assert report.objects == 70_225
    assert report.split == 1
    assert report.pieces == 2
    assert report.removed == 0
    assert clean.max() == report.kept == 70_226


@pytest.mark.parametrize(
    ("labels", "min_size", "said"),
    [
        (np.zeros(4, int), 5, "2 dimensions"),
        (np.full((2, 2), 0.5), 5, "fractions or NaN"),
        (np.full((2, 2), np.nan), 5, "fractions or NaN"),
        (np.full((2, 2), -1), 5, "found -1"),
        (np.zeros((2, 2), int), -1, "min_size is -1"),
    ],
)
def test_bad_input_is_refused(labels: NDArray[np.generic], min_size: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        clean_labels(labels, min_size=min_size)  # type: ignore[arg-type]


@pytest.mark.shared_data
def test_real_labels_are_4_connected_afterwards(shared_data: Path) -> None:
    from PIL import Image as PillowImage

    files = sorted((shared_data / "dsb2018" / "labels").glob("*.png"))
    for file in files[:: len(files) // 5]:
        labels = np.asarray(PillowImage.open(file)).astype(np.int32)
        clean, report = clean_labels(labels)
        assert (clean > 0).sum() >= (labels > 0).sum() - 4 * report.removed
        assert ((clean > 0) <= (labels > 0)).all()
        expected, expected_report = twin(labels, 5)
        assert np.array_equal(clean, expected)
        assert report == expected_report
