"""`Scene`: everything that decides one simulated picture, as plain numbers; `Picture`: what comes out."""

from __future__ import annotations

import json
import types
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, cast, get_args, get_origin, get_type_hints

import cc3d
import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.labels import relabel
from cellweave.simulate.camera import Camera, Pixels
from cellweave.simulate.clutter import Clutter
from cellweave.simulate.fluorescence import Fluorescence
from cellweave.simulate.geometry import SMALLEST, Contact, Floats, Geometry, Ids, Parts, paint
from cellweave.simulate.layout import Layout, Poses, place
from cellweave.simulate.optics import Optics
from cellweave.simulate.shapes import Drawn, Shape, draw, samples_for
from cellweave.simulate.stained import Stained, to_gray
from cellweave.simulate.texture import noise
from cellweave.simulate.transmitted import Brightfield, Dic, PhaseContrast

Modality = Fluorescence | PhaseContrast | Dic | Brightfield | Stained
MODALITIES: dict[str, type[Any]] = {c.__name__: c for c in (Fluorescence, PhaseContrast, Dic, Brightfield, Stained)}
LOOKS = ("as is", "gray", "inverted", "photograph")
TARGETS = ("cells", "nuclei")
MOST_CELLS = 6000
_FILL = 1.45  # cells of a sheet are enlarged until they meet
_COLOURS = np.array(
    [(0.1, 0.25, 1), (0.1, 1, 0.15), (1, 0.1, 0.1), (1, 0.9, 0.1), (0.1, 1, 1), (1, 0.1, 1), (1, 1, 1)],
    dtype=np.float32,
)


@dataclass(frozen=True)
class Cells:
    """What lies in the field.

    Parameters
    ----------
    shapes
        Kinds of cells, mixed by their shares.
    layout
        Their arrangement.
    bare
        The outlines are nuclei without a visible cell around them.
    """

    shapes: tuple[Shape, ...] = (Shape(),)
    layout: Layout = field(default_factory=Layout)
    bare: bool = False

    @property
    def diameter(self) -> float:
        """Median diameter of the most frequent kind in px."""
        return max(self.shapes, key=lambda shape: shape.share).diameter


@dataclass(frozen=True)
class Population:
    """The cells of one field before they are painted: outlines, poses, order from top to bottom."""

    drawn: Drawn
    poses: Poses
    rank: Floats

    def placed(self, *, fill: float = 1.0) -> tuple[Parts, Parts]:
        """Outlines of cells and nuclei in the field, cells enlarged by `fill`."""
        unit = self.drawn.unit

        def put(parts: Parts, factor: float) -> Parts:
            own = unit[parts.body]
            grown = parts if factor == 1.0 else parts.scaled(np.full(len(parts), factor, dtype=np.float32))
            return grown.moved(self.poses.y[own], self.poses.x[own], self.poses.angle[own])

        return put(self.drawn.cells, fill), put(self.drawn.nuclei, 1.0)


def populate(cells: Cells, size: tuple[int, int], rng: np.random.Generator) -> Population:
    """Draw the cells of a field of `size` px and find their places."""
    layout = cells.layout
    samples = samples_for(max(shape.diameter for shape in cells.shapes))
    spread = max(shape.diameter * np.sqrt(shape.elongation) for shape in cells.shapes)
    margin = min(0.6 * spread, 2.0 * cells.diameter)
    around = 0.0 if layout.pattern in ("clusters", "rings") else margin
    area = layout.density * (size[0] + 2.0 * around) * (size[1] + 2.0 * around)
    shares = np.array([shape.share for shape in cells.shapes])
    each = np.array(
        [
            np.pi / 4 * shape.diameter**2 * np.exp(2.0 * shape.variation**2) * (1 + max(shape.chain, 1)) / 2
            for shape in cells.shapes
        ]
    )
    expected = area * shares / (shares * each).sum() if layout.density > 0 else np.zeros(len(shares))
    expected *= min(1.0, MOST_CELLS / max(float(expected.sum()), 1.0))
    counts = np.floor(expected + rng.random(len(expected))).astype(int)
    if layout.density > 0 and counts.sum() == 0:
        counts[np.argmax(shares)] = 1
    drawn = Drawn.join([draw(shape, int(n), samples, rng) for shape, n in zip(cells.shapes, counts, strict=True)])
    poses = place(drawn, layout, size, margin, rng)
    return Population(drawn, poses, rng.random(len(drawn.unit), dtype=np.float32))


def lay_out(
    cells: Cells, population: Population, size: tuple[int, int], rng: np.random.Generator, ids: Ids | None = None
) -> Geometry:
    """Paint a population; `rng` draws the uneven displacement only."""
    layout, diameter = cells.layout, cells.diameter
    parts, nuclei = population.placed(fill=_FILL if layout.sheet else 1.0)
    warp = None
    if layout.wobble > 0:
        amount = np.float32(layout.wobble * diameter)
        length = max(float(rng.uniform(0.1, 0.4)) * diameter, 1.0)
        warp = (amount * noise(size, length, rng), amount * noise(size, length, rng))
    contact = Contact(press=1.0 if layout.sheet else layout.press, gap=layout.gap * diameter, sheet=layout.sheet)
    geometry = paint(parts, nuclei, size, contact=contact, rank=population.rank, warp=warp, ids=ids)
    return replace(geometry, nuclei=geometry.labels.copy()) if cells.bare else geometry


@dataclass(frozen=True)
class Scene:
    """Everything that decides one picture.

    Parameters
    ----------
    size
        (Y, X) of the picture in px.
    cells
        What lies in the field.
    modality
        The kind of microscope: `Fluorescence`, `PhaseContrast`, `Dic`, `Brightfield` or `Stained`.
    optics, camera, clutter
        Lens, camera, and what is in the way.
    target
        What the labels outline: "cells" or "nuclei".
    look
        "as is"; "gray": a colour photograph saved without its colours; "inverted": dark and bright
        exchanged; "photograph": all channels in one red-green-blue picture.
    seed
        Same scene, same bytes.
    """

    size: tuple[int, int] = (256, 256)
    cells: Cells = field(default_factory=Cells)
    modality: Modality = field(default_factory=Fluorescence)
    optics: Optics = field(default_factory=Optics)
    camera: Camera = field(default_factory=Camera)
    clutter: Clutter = field(default_factory=Clutter)
    target: str = "cells"
    look: str = "as is"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise InputError(f"size {self.size}: a picture has at least 1 x 1 px")
        for name, value, known in (("target", self.target, TARGETS), ("look", self.look, LOOKS)):
            if value not in known:
                raise InputError(f"{name}: there is no '{value}'; choose one of {', '.join(known)}")

    def generator(self, stage: int) -> np.random.Generator:
        """Random numbers of one stage: 0 cells, 1 outlines, 2 light, 3 lens, 4 and on camera."""
        return np.random.default_rng([self.seed, stage])

    def geometry(self) -> Geometry:
        """Where the cells are."""
        population = populate(self.cells, self.size, self.generator(0))
        return lay_out(self.cells, population, self.size, self.generator(1))

    def draw(self) -> Picture:
        """The picture and its truth."""
        geometry = self.geometry()
        pixels, names, color = self.photograph(geometry)
        return Picture(pixels, names, color, self.truth(geometry), geometry.nuclei, self)

    def photograph(self, geometry: Geometry, *, moment: int = 0) -> tuple[Pixels, tuple[str, ...], bool]:
        """Pixels (C, Y, X) of a geometry seen by this microscope, names of channels, whether they are colours.

        `moment` changes the noise of the camera and nothing else.
        """
        light, names, color = self.light(geometry)
        light = self.optics.apply(light, self.generator(3))
        return self.camera.expose(light, self.generator(4 + moment)), names, color

    def light(self, geometry: Geometry) -> tuple[Floats, tuple[str, ...], bool]:
        """What reaches the lens: light (C, Y, X), names of channels, whether they are colours."""
        rng = self.generator(2)
        soiled = self.clutter.add(geometry, rng)
        light, names = self.modality.render(soiled, rng)
        light = self.clutter.paint(light, geometry, rng)
        color = self.modality.color
        if self.look == "gray" and color:
            return to_gray(light), ("",), False
        if self.look == "inverted":
            return np.clip(1.0 - light, 0.0, 1.0).astype(np.float32), names, color
        if self.look == "photograph" and not color:
            return _merged(light, rng), ("red", "green", "blue"), True
        return light, names, color

    def truth(self, geometry: Geometry) -> Ids:
        """Labels of the target; ids as in `geometry` for cells, 1..n for nuclei."""
        if self.target == "cells" or self.cells.bare:
            return geometry.labels
        pieces = np.asarray(cc3d.connected_components(geometry.nuclei, connectivity=4), dtype=np.int32)
        large = np.bincount(pieces.ravel()) >= SMALLEST
        return relabel(np.where(large[pieces], pieces, 0).astype(np.int32))[0]

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads."""
        return json.dumps({**asdict(self), "modality": {"name": type(self.modality).__name__, **asdict(self.modality)}})

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """The scene that `to_json` wrote.

        Raises
        ------
        InputError
            When `text` is no such scene; says which part is wrong.
        """
        try:
            data = json.loads(text)
            if not isinstance(data, dict):
                raise InputError("a scene is a JSON object")
            return cast(Scene, _revived(cls, data, "scene"))
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"this is no scene: {error}; give a line that cellweave simulate wrote") from error


def _revived(wanted: Any, data: Any, where: str) -> Any:
    """`data` of JSON as a value of the annotated type `wanted`."""
    if wanted == Modality:
        data = dict(data)
        name = data.pop("name", "")
        if name not in MODALITIES:
            raise InputError(f"{where}: '{name}' is no modality; choose one of {', '.join(MODALITIES)}")
        wanted = MODALITIES[name]
    if get_origin(wanted) is types.UnionType:
        if data is None:
            return None
        wanted = next(one for one in get_args(wanted) if one is not type(None))
    if is_dataclass(wanted) and isinstance(wanted, type):
        hints = get_type_hints(wanted)
        unknown = set(data) - {one.name for one in fields(wanted)}
        if unknown:
            raise InputError(f"{where}: {', '.join(sorted(unknown))} is not known")
        return wanted(**{key: _revived(hints[key], value, f"{where}.{key}") for key, value in data.items()})
    if get_origin(wanted) is tuple:
        inner = get_args(wanted)
        kinds = [inner[0]] * len(data) if len(inner) == 2 and inner[1] is Ellipsis else inner
        return tuple(_revived(kind, value, where) for kind, value in zip(kinds, data, strict=True))
    return data


def _merged(light: Floats, rng: np.random.Generator) -> Floats:
    """Channels in one red-green-blue picture: each in a colour of its own, the last one blue as nuclei are."""
    n = len(light)
    colours = _COLOURS[rng.permutation(np.arange(1, len(_COLOURS)))[:n]]
    if n > 1:
        colours[-1] = _COLOURS[0]
    elif rng.random() < 0.3:
        colours[0] = 1.0
    return np.clip(np.tensordot(colours.T, light, axes=1), 0.0, 4.0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Picture:
    """A simulated picture with its truth.

    Parameters
    ----------
    pixels
        (C, Y, X) uint8 or uint16.
    channel_names
        One name a channel.
    color
        True for the red, green and blue of a photograph.
    labels
        (Y, X) int32: the truth, ids 1..n.
    nuclei
        (Y, X) int32: nuclei with the ids of their cells; 0 where there are none.
    scene
        What it was made from.
    """

    pixels: Pixels
    channel_names: tuple[str, ...]
    color: bool
    labels: NDArray[np.int32]
    nuclei: NDArray[np.int32]
    scene: Scene

    def image(self) -> Image:
        """The pixels as `cellweave.Image`."""
        return Image(self.pixels, "CYX", channel_names=self.channel_names, color=self.color)
