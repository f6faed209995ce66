"""A picture of how cells were found: what the net saw and said, and the steps that made cells of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from cellweave.core.binning import block_means
from cellweave.io.overlay import block_size, render_image, render_overlay
from cellweave.predict.segmentation import Segmentation
from cellweave.representations import WatershedEnergy
from cellweave.representations.base import Maps

Picture = NDArray[np.uint8]
Panel = tuple[str, Picture]
"""A title and what is under it."""

LONGEST, SHORTEST = 1360, 480
"""The longer side of a panel in px is at most the first; smaller images are enlarged up to about the second."""
NARROWEST, GAP, LINE, FONT = 340, 8, 22, 15
FIRST, SECOND = (0, 170, 255), (255, 150, 0)
"""Colours of the markers of the first and of the second flood."""
_SCALE = ((0, 0, 10), (80, 20, 110), (185, 55, 85), (250, 140, 10), (252, 255, 165))
_TABLE: Picture = np.stack(
    [np.interp(np.linspace(0, 4, 256), range(5), part) for part in np.transpose(_SCALE)], axis=1
).astype(np.uint8)
"""(256, 3): colours of numbers from 0 to 1, from dark to light."""


def diagnostics_picture(result: Segmentation) -> Picture:
    """Panels (Y, X, 3) uint8 that show how the cells of an image were found.

    The image, the maps that the net predicted, and the cells. Of `WatershedEnergy` the energy with the outline of the
    foreground, the boxes before and after non-maximum suppression, from dark to light by their score, and the markers
    of both floods: dots and what the first flood gave to them in blue, seeds of the second in orange. The line above
    says which branch of a `CellSegmenter` was chosen, and why. Large images are shown as means of blocks.

    Notes
    -----
    Maps of `WatershedEnergy` are decoded again to see the steps. Besides what that takes, memory grows with the panels
    (at most 1360 px) and not with the image.
    """
    view = _View.of(result)
    picture = render_image(result.image, longest_side=LONGEST)
    found = f"{result.count} cells" + (f", {result.dropped} more dropped" if result.dropped else "")
    representation = result.model.representation
    panels = [
        ("image", view.enlarged(picture)),
        *(
            _steps(representation, result.maps, picture, view)
            if isinstance(representation, WatershedEnergy)
            else _maps(representation.map_names, result.maps, view)
        ),
        (found, view.enlarged(render_overlay(result.image, result.labels, longest_side=LONGEST))),
    ]
    return _sheet(_caption(result), panels)


@dataclass(frozen=True)
class _View:
    """How an image becomes a panel: means of blocks of `factor` x `factor`, then pixels of `zoom` x `zoom`."""

    factor: int
    zoom: int

    @classmethod
    def of(cls, result: Segmentation) -> _View:
        return cls(block_size(result.image, LONGEST), max(1, SHORTEST // max(result.labels.shape)))

    def means(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Means of blocks of (Y, X)."""
        return block_means(values, self.factor)

    def largest(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The largest value of each block of (Y, X)."""
        if self.factor == 1:
            return values
        rows, columns = (np.arange(0, n, self.factor) for n in values.shape)
        return np.asarray(np.maximum.reduceat(np.maximum.reduceat(values, rows, axis=0), columns, axis=1))

    def enlarged(self, picture: Picture) -> Picture:
        """Every pixel as a square."""
        return picture.repeat(self.zoom, axis=0).repeat(self.zoom, axis=1)

    def moved(self, positions: NDArray[np.floating]) -> NDArray[np.floating]:
        """From px of the image to px of the panel."""
        return positions * (self.zoom / self.factor)


def _maps(names: Sequence[str], maps: Maps, view: _View) -> list[Panel]:
    """A panel for each map of probabilities, one for the direction of flows, and one for the distances of stars."""
    planes = dict(zip(names, maps, strict=True))
    panels = [
        (f"{name}, 0 to 1", view.enlarged(_coloured(view.means(planes[name]))))
        for name in ("probability", "boundary")
        if name in planes
    ]
    if "flow_y" in planes:
        flows = _directions(view.means(planes["flow_y"]), view.means(planes["flow_x"]))
        panels.append(("direction and length of the flows", view.enlarged(flows)))
    rays = [name for name in names if name.startswith("distance_")]
    if rays:
        mean = np.sum([view.means(planes[name]) for name in rays], axis=0) / len(rays)
        most = max(1.0, float(np.ceil(mean.max(initial=0))))
        panels.append((f"mean distance to the border, 0 to {most:g} px", view.enlarged(_coloured(mean / most))))
    return panels


def _steps(representation: WatershedEnergy, maps: Maps, picture: Picture, view: _View) -> list[Panel]:
    """The steps of a decoding of watershed energy."""
    steps = representation.decode_steps(maps)
    energy = _coloured(view.means(maps[1]) / 2)
    inside = view.means(maps[0]) > representation.probability_threshold
    energy[inside & ~_inner(inside)] = 255
    dimmed = view.enlarged(picture // 2)
    boxes, scores, kept = view.moved(steps.boxes), steps.scores, steps.kept
    first = len(steps.centers)
    second = int(steps.markers.max(initial=first)) - first
    kinds = view.largest((steps.markers > 0).astype(np.uint8) + (steps.markers > first))
    flooded = picture // 2
    for kind, colour in ((1, FIRST), (2, SECOND)):
        flooded[kinds == kind] = flooded[kinds == kind] // 2 + np.array(colour, np.uint8) // 2
    return [
        ("energy, 0 to 2; white: outline of the foreground", view.enlarged(energy)),
        (f"{len(boxes)} boxes", _with_boxes(dimmed, boxes, scores)),
        (f"{len(kept)} boxes after suppression", _with_boxes(dimmed, boxes[kept], scores[kept])),
        (
            f"markers: {first} first (blue), {second} second (orange)",
            _with_dots(view.enlarged(flooded), view.moved(steps.centers + 0.5)),
        ),
    ]


def _inner(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose four neighbours in the image are in the mask."""
    padded = np.pad(mask, 1, constant_values=True)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _coloured(values: NDArray[np.floating]) -> Picture:
    """Numbers (Y, X) of 0 to 1, which others are cut to, as colours (Y, X, 3)."""
    return _TABLE[_byte(values)]


def _byte(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.nan_to_num(values) * 255, 0, 255), np.uint8)


def _directions(y: NDArray[np.float32], x: NDArray[np.float32]) -> Picture:
    """The angle of vectors as a hue, their length up to 1 as brightness; the inverse direction has the inverse hue."""
    angle, length = np.arctan2(y, x), np.clip(np.hypot(y, x), 0, 1)
    return np.stack([_byte(length * (0.5 + 0.5 * np.cos(angle - turn * 2 * np.pi / 3))) for turn in range(3)], axis=-1)


def _with_boxes(picture: Picture, boxes: NDArray[np.floating], scores: NDArray[np.float32]) -> Picture:
    """Frames of boxes (N, 4), the best on top."""
    canvas = Pillow.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    colours = _TABLE[64 + _byte(scores) // 4 * 3]  # the darkest would not be seen
    y0, x0, y1, x1 = np.rint(boxes).astype(int).T
    for k in np.argsort(scores, kind="stable").tolist():
        corners = (x0[k], y0[k], max(x0[k], x1[k] - 1), max(y0[k], y1[k] - 1))
        draw.rectangle(corners, outline=tuple(colours[k].tolist()))
    return np.array(canvas)


def _with_dots(picture: Picture, centers: NDArray[np.floating]) -> Picture:
    """Points (N, 2)."""
    canvas = Pillow.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for y, x in centers.tolist():
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=FIRST, outline="white")
    return np.array(canvas)


def _caption(result: Segmentation) -> str:
    text = f"{result.model.name} ({type(result.model.representation).__name__})"
    return f"Branch {result.branch.name}: {text}. Why: {result.branch.why}." if result.branch else f"Model: {text}."


def _sheet(caption: str, panels: Sequence[Panel]) -> Picture:
    """Panels of one size, with their titles, in rows under a caption; as near to a square as can be."""
    font = ImageFont.load_default(FONT)
    height, width = panels[0][1].shape[:2]
    cell_y, cell_x = height + LINE + GAP, max(width, NARROWEST) + GAP
    columns = min(range(1, len(panels) + 1), key=lambda n: max(n * cell_x, -(-len(panels) // n) * cell_y))
    lines = _wrapped(caption, columns * cell_x - GAP, font)
    top, rows = GAP + LINE * len(lines), -(-len(panels) // columns)
    sheet = Pillow.new("RGB", (columns * cell_x + GAP, top + rows * cell_y), "white")
    draw = ImageDraw.Draw(sheet)
    for k, line in enumerate(lines):
        draw.text((GAP, GAP // 2 + k * LINE), line, fill="black", font=font)
    for k, (title, panel) in enumerate(panels):
        row, column = divmod(k, columns)
        x, y = GAP + column * cell_x, top + row * cell_y
        draw.text((x, y), title, fill="black", font=font)
        sheet.paste(Pillow.fromarray(panel), (x, y + LINE))
    return np.array(sheet)


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of words that fit in `width` px."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
