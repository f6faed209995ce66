"""The picture of how cells were found: every step on it, for every representation and size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cell_segmenters import branch, cell_segmenter
from cellweave.core.image import Image
from cellweave.models import Segmenter
from cellweave.predict import Branch, Segmentation, diagnostics, diagnostics_picture, segment
from cellweave.predict.diagnostics import FIRST, LONGEST, SECOND, SHORTEST, _steps, _View
from cellweave.representations import REPRESENTATIONS, Representation, WatershedEnergy


def result_of(
    labels: NDArray[np.int32], representation: Representation, *, branch_of: Branch | None = None
) -> Segmentation:
    """What a net without faults would lead to."""
    maps = representation.encode(labels)
    found, confidence = representation.decode_scored(maps)
    image = Image((labels > 0).astype(np.uint8)[None] * 100)
    model = branch(0, WatershedEnergy()).with_(representation=representation)
    return Segmentation(found, confidence, maps, 20.0, model, image, branch=branch_of)


def panels(result: Segmentation) -> dict[str, NDArray[np.uint8]]:
    """Panels of the steps by the first words of their titles."""
    picture = diagnostics.render_image(result.image, longest_side=LONGEST)
    representation = result.model.representation
    assert isinstance(representation, WatershedEnergy)
    return dict(_steps(representation, result.maps, picture, _View.of(result)))


def bent(shape: tuple[int, int] = (90, 90)) -> NDArray[np.int32]:
    """A disk, and a half ring, the middle of whose box is not in it."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = (np.hypot(y - 20, x - 20) < 12).astype(np.int32)
    ring = np.hypot(y - 60, x - 50)
    labels[(ring > 12) & (ring < 26) & (y > 55)] = 2
    return labels


def count_of(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    """Pixels that a marker of this colour was laid over, on black or on gray."""
    difference = picture.astype(int) - np.array(colour) // 2
    return int(((difference >= 0) & (difference == difference[..., :1])).all(axis=2).sum())


def test_the_steps_are_those_of_the_decoding() -> None:
    result = result_of(bent(), WatershedEnergy(largest_dropped=0))
    steps = result.model.representation.decode_steps(result.maps)  # type: ignore[attr-defined]
    n_second = int(steps.markers.max()) - len(steps.centers)
    assert (len(steps.boxes), len(steps.centers)) == (2, 1)
    assert n_second >= 1
    assert list(panels(result)) == [
        "energy, 0 to 2; white: outline of the foreground",
        "2 boxes",
        "2 boxes after suppression",
        f"markers: 1 first (blue), {n_second} second (orange)",
    ]


def test_markers_have_two_colours() -> None:
    result = result_of(bent(), WatershedEnergy(largest_dropped=0))
    shown = next(p for title, p in panels(result).items() if title.startswith("markers"))
    zoom = _View.of(result).zoom
    steps = result.model.representation.decode_steps(result.maps)  # type: ignore[attr-defined]
    first, second = ((steps.markers == 1).sum(), (steps.markers > 1).sum())
    assert first > 0
    assert second > 0
    assert count_of(shown, SECOND) == second * zoom**2
    assert 0.8 * first * zoom**2 < count_of(shown, FIRST) < first * zoom**2  # the dot lies over the rest
    disk = shown[10 * zoom : 30 * zoom, 10 * zoom : 30 * zoom]
    assert count_of(disk, SECOND) == 0


def test_suppressed_boxes_are_on_the_first_panel_only() -> None:
    labels = np.zeros((64, 64), np.int32)
    labels[10:40, 10:40] = 1
    result = result_of(labels, WatershedEnergy(largest_dropped=0))
    maps = result.maps.copy()
    maps[2:, 27, 27] = 0.9, 32, 32  # a worse box, 2 px off
    shown = panels(Segmentation(result.labels, result.confidence, maps, 20.0, result.model, result.image))
    before, after = shown["2 boxes"], shown["1 boxes after suppression"]
    view = _View.of(result)
    differs = (before != after).any(axis=2)
    assert differs.any()
    y, x = np.nonzero(differs)
    expected = np.rint(view.moved(np.array([27.5 - 16, 27.5 + 16])))
    assert (y.min(), y.max() + 1, x.min(), x.max() + 1) == (*expected, *expected)


def test_the_foreground_is_outlined_on_the_energy() -> None:
    result = result_of(bent(), WatershedEnergy())
    energy = panels(result)["energy, 0 to 2; white: outline of the foreground"]
    zoom = _View.of(result).zoom
    white = (energy[::zoom, ::zoom] == 255).all(axis=2)
    inside = result.maps[0] > 0.5
    assert white.any()
    assert not white[~inside].any()
    padded = np.pad(inside, 1, constant_values=True)
    rim = inside & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])
    assert np.array_equal(white, rim)


@pytest.mark.parametrize("representation", [r for r in REPRESENTATIONS.values() if issubclass(r, Representation)])
def test_every_representation_has_a_picture(representation: Callable[[], Representation]) -> None:
    result = result_of(bent(), representation())
    before = result.maps.copy(), result.labels.copy()
    picture = diagnostics_picture(result)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    zoomed = 90 * (SHORTEST // 90)
    assert picture.shape[0] > 2 * zoomed
    assert picture.shape[1] > 2 * zoomed
    assert len(np.unique(picture.astype(int) @ (1, 256, 65536))) > 20
    assert np.array_equal(picture, diagnostics_picture(result))
    assert np.array_equal(result.maps, before[0])
    assert np.array_equal(result.labels, before[1])


def test_the_caption_tells_the_branch_and_why(domes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    wrapped = diagnostics._wrapped

    def listen(text: str, width: int, font: Any) -> list[str]:
        said.append(text)
        return wrapped(text, width, font)

    monkeypatch.setattr(diagnostics, "_wrapped", listen)
    result = segment(domes(1)[0], cell_segmenter(), device="cpu")
    assert result.branch is not None
    diagnostics_picture(result)
    diagnostics_picture(segment(domes(1)[0], result.model, device="cpu"))
    assert said[0].startswith(f"Branch {result.branch.name}: {result.model.name} (")
    assert result.branch.why in said[0]
    assert said[1] == f"Model: {result.model.name} ({type(result.model.representation).__name__})."


def test_a_long_caption_has_several_lines() -> None:
    labels = bent()
    short, long = (
        diagnostics_picture(
            result_of(
                labels, WatershedEnergy(), branch_of=Branch("grayscale", "general", {}, " ".join(["because"] * n))
            )
        )
        for n in (1, 200)
    )
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0] + 100
    font = diagnostics.ImageFont.load_default(diagnostics.FONT)
    lines = diagnostics._wrapped(" ".join(["because"] * 200) + " " + "x" * 500, 300, font)
    assert all(font.getlength(line) <= 300 for line in lines[:-1])
    assert " ".join(lines).split() == ["because"] * 200 + ["x" * 500]


def test_flows_of_other_directions_have_other_colours() -> None:
    angle = np.arange(8) * np.pi / 4
    shown = diagnostics._directions(np.sin(angle)[None].astype(np.float32), np.cos(angle)[None].astype(np.float32))
    assert (np.abs(shown[0, :, None].astype(int) - shown[0]).sum(axis=2) > 60)[~np.eye(8, dtype=bool)].all()
    assert diagnostics._directions(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)).max() == 0


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(0, 1000))
def test_blocks_are_those_of_the_slow_way(height: int, width: int, factor: int, seed: int) -> None:
    values = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    view = _View(factor, 1)
    rows, columns = range(0, height, factor), range(0, width, factor)
    blocks = [[values[y : y + factor, x : x + factor] for x in columns] for y in rows]
    np.testing.assert_allclose(view.means(values), [[b.mean() for b in row] for row in blocks], rtol=1e-5)
    large = (values * 255).astype(np.uint8)
    blocks = [[large[y : y + factor, x : x + factor] for x in columns] for y in rows]
    assert np.array_equal(view.largest(large), [[b.max() for b in row] for row in blocks])


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (5, 9000), (2001, 1700)])
@pytest.mark.parametrize("representation", [WatershedEnergy(), REPRESENTATIONS["DiffusionFlows"]()])
def test_any_size(shape: tuple[int, int], representation: Representation) -> None:
    labels = np.zeros(shape, np.int32)
    labels[: min(30, shape[0] // 2), : min(30, shape[1] // 2)] = 1
    maps = representation.encode(labels)
    model = branch(0, WatershedEnergy()).with_(representation=representation)
    image = Image(labels.astype(np.float32)[None])
    picture = diagnostics_picture(Segmentation(labels, np.ones(labels.max(), np.float32), maps, 1.0, model, image))
    assert picture.dtype == np.uint8
    assert max(picture.shape) < 6 * LONGEST
    assert picture.max() == 255


def test_a_large_image_needs_little_memory(tiny_model: Segmenter) -> None:
    """The overlay's two copies of the labels are the most, whatever the number of panels."""
    side = 5000
    maps = np.zeros((3, side, side), np.float32)
    labels = np.zeros((side, side), np.int32)
    labels[100:400, 100:400] = 1
    image = Image(np.zeros((1, side, side), np.uint8))
    result = Segmentation(labels, np.ones(1, np.float32), maps, 24.0, tiny_model, image)
    tracemalloc.start()
    picture = diagnostics_picture(result)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(picture.shape) < 3 * LONGEST
    assert peak < 2.2 * labels.nbytes + 10 * picture.nbytes


def test_what_was_dropped_is_told(domes: Callable[..., Any], tiny_model: Segmenter) -> None:
    everything = segment(domes(1)[0], tiny_model, device="cpu")
    least = float(np.median(everything.confidence))
    fewer = segment(domes(1)[0], tiny_model, device="cpu", min_confidence=least)
    assert not np.array_equal(diagnostics_picture(everything), diagnostics_picture(fewer))


def test_missing_pixels_are_shown_too() -> None:
    result = result_of(bent(), WatershedEnergy())
    maps = result.maps.copy()
    maps[:, :20] = np.nan
    picture = diagnostics_picture(
        Segmentation(result.labels, result.confidence, maps, 20.0, result.model, result.image)
    )
    assert picture.dtype == np.uint8
