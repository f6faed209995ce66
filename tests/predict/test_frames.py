"""Time lapses: each frame as `segment` does it, one at a time; what holds for the film is decided once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cell_segmenters import cell_segmenter
from cellweave.core.errors import InputError, ReadError
from cellweave.core.image import Image
from cellweave.core.progress import showing
from cellweave.models import Segmenter
from cellweave.predict import estimate_diameter, segment, segment_frames
from cellweave.predict.frames import film_diameter, spread


@pytest.fixture
def film(domes: Callable[..., Any]) -> Image:
    """Seven frames with 3 to 9 cells."""
    frames = np.stack([domes(t, (96, 120), 3 + t)[0] for t in range(7)])
    return Image(frames[:, None], "TCYX", pixel_size_um=(0.5, 0.5), interval_s=60.0)


class Watched:
    """Pixels that tell how much was read at once, and some frames of which cannot be read."""

    def __init__(self, data: NDArray[Any], bad: tuple[int, ...] = ()) -> None:
        self.data, self.shape, self.dtype, self.bad, self.most = data, data.shape, data.dtype, bad, 0

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if key[0] in self.bad:
            raise ReadError("this frame is damaged")
        found = self.data[key]
        self.most = max(self.most, found.size)
        return found


def test_frames_are_those_of_segment(film: Image, tiny_model: Segmenter) -> None:
    found = segment_frames(film, tiny_model, diameter=24, device="cpu", min_confidence=0.1)
    assert len(found) == 7
    for t, frame in enumerate(found):
        alone = segment(film.plane(t=t), tiny_model, diameter=24, device="cpu", min_confidence=0.1)
        np.testing.assert_array_equal(frame.labels, alone.labels)
        np.testing.assert_array_equal(frame.confidence, alone.confidence)
        assert frame.count == 3 + t
        assert frame.image.axes == "CYX"
    np.testing.assert_array_equal(found[-1].labels, found[6].labels)
    assert [frame.count for frame in found[2:4]] == [5, 6]
    with pytest.raises(IndexError):
        found[7]


def test_the_diameter_is_one_for_the_film(film: Image, tiny_model: Segmenter) -> None:
    found = segment_frames(film, tiny_model, device="cpu")
    expected = np.median([estimate_diameter(film.plane(t=t), tiny_model, device="cpu") for t in (0, 2, 3, 4, 6)])
    assert spread(7, 5) == [0, 2, 3, 4, 6]
    assert {frame.diameter for frame in found} == {expected}
    assert {f.diameter for f in segment_frames(film, tiny_model, diameter="12um", device="cpu")} == {24}


def test_a_spoilt_frame_does_not_decide(film: Image, tiny_model: Segmenter) -> None:
    pixels = np.asarray(film).copy()
    pixels[3] = np.random.default_rng(0).integers(0, 60_000, pixels.shape[1:])
    spoilt = replace(film, data=pixels)
    assert (
        abs(film_diameter(spoilt, tiny_model, device="cpu") / film_diameter(film, tiny_model, device="cpu") - 1) < 0.1
    )


def test_one_frame_is_read_at_a_time(film: Image, tiny_model: Segmenter) -> None:
    pixels = Watched(np.asarray(film))
    for _ in segment_frames(replace(film, data=pixels), tiny_model, device="cpu"):
        pass
    assert pixels.most == 96 * 120


def test_bad_frames_raise_alone(film: Image, tiny_model: Segmenter) -> None:
    found = segment_frames(replace(film, data=Watched(np.asarray(film), bad=(0, 5))), tiny_model, device="cpu")
    counts = []
    for t in range(7):
        if t in (0, 5):
            with pytest.raises(ReadError, match="damaged"):
                found[t]
        else:
            counts.append(found[t].count)
    assert counts == [4, 5, 6, 7, 9]
    with pytest.raises(ReadError, match="damaged"):
        segment_frames(replace(film, data=Watched(np.asarray(film), bad=tuple(range(7)))), tiny_model, device="cpu")


def test_auto_channels_are_the_same_in_all_frames(domes: Callable[..., Any], tiny_model: Segmenter) -> None:
    """Red is dark in the first frame only."""
    dome = domes(0, (64, 64), 2)[0] // 5
    frames = np.zeros((5, 3, 64, 64), np.uint8)
    frames[:, 1] = frames[1:, 0] = dome
    image = Image(frames, "TCYX", color=True)
    found = segment_frames(image, tiny_model, diameter=24, device="cpu")
    alone = segment(image.plane(t=0), tiny_model, diameter=24, device="cpu", channels="2,1")
    np.testing.assert_array_equal(found[0].maps, alone.maps)


def test_one_branch_for_the_film(film: Image, tmp_path: Path) -> None:
    system = cell_segmenter()
    found = segment_frames(film, system, device="cpu")
    branches = {frame.branch.name for frame in found if frame.branch}
    assert len(branches) == 1
    assert found[0].branch is not None
    assert "of 5 frames" in found[0].branch.why


def test_a_single_frame_and_progress(film: Image, tiny_model: Segmenter) -> None:
    found = segment_frames(film.plane(t=2), tiny_model, device="cpu")
    assert [frame.count for frame in found] == [5]
    told: list[tuple[str, int, int, str]] = []
    with showing(lambda *report: told.append(report)):
        list(segment_frames(film, tiny_model, diameter=24, device="cpu"))
    assert [done for task, done, _, _ in told if task == "frames"] == list(range(7))


def test_refuses(film: Image, tiny_model: Segmenter) -> None:
    stack = Image(np.zeros((2, 3, 1, 32, 32), np.uint8).transpose(0, 2, 1, 3, 4), "TCZYX")
    with pytest.raises(InputError, match=r"3 depths.*z=0"):
        segment_frames(stack, tiny_model, device="cpu")
    assert len(segment_frames(stack.select(z=1), tiny_model, diameter=24, device="cpu")) == 2
    with pytest.raises(InputError, match="min_confidence"):
        segment_frames(film, tiny_model, min_confidence=2)
    with pytest.raises(InputError, match="um"):
        segment_frames(replace(film, pixel_size_um=None), tiny_model, diameter="12um")
