"""Random views of training samples: turned, mirrored, resized crops with other contrast, shading, blur and noise.

A batch is made by a few operations on all its crops at once, on the device where the samples are. What is random is
drawn per crop from (seed, number of the batch, crop), so that a batch depends on nothing that came before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cellweave.representations import MapFormat
from cellweave.train.microscopy import change_acquisition, random_acquisition, random_geometry
from cellweave.train.samples import COLOURS, Samples

OCTAVES = 1.0
"""Zooms are ``2 ** uniform(-1, 1)``: the net must bear a diameter that is wrong by a factor of two."""
OVERHANG, OVERHANGING = 32.0, 0.25
"""Where borders matter (`MapFormat.reach`), crops reach up to so many px beyond the image along each axis, in this
share of the draws: as at the edges of tiles in a prediction."""
LARGEST_REACH = 0.25
"""Of the side of a crop: some of its middle is always learned from."""


@dataclass(frozen=True)
class View:
    """Where a crop comes from: the linear part from directions (y, x) in the sample to the crop, and its middle."""

    matrix: NDArray[np.float64]
    center: tuple[float, float]


def random_view(
    shape: tuple[int, int], crop: int, rng: np.random.Generator, *, octaves: float = OCTAVES, overhang: float = 0.0
) -> View:
    """Rotation by any angle, flip, zoom by ``2 ** uniform(-octaves, octaves)``, stretch and shear up to 10 %.

    The crop's center is anywhere that leaves the unturned crop on the image, or the middle of a smaller image; in some
    draws (`OVERHANGING`) it is up to `overhang` px farther out.
    """
    zoom = 2.0 ** rng.uniform(-octaves, octaves)
    angle, flip = rng.uniform(0, 2 * math.pi), rng.choice([-1.0, 1.0])
    stretch = math.exp(rng.uniform(-0.1, 0.1))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    center = _center(shape, crop / zoom / 2, rng, overhang)
    shear = np.array([[1.0, 0.0], [rng.uniform(-0.1, 0.1), 1.0]])
    return View(zoom * turn @ shear @ np.diag([stretch, flip / stretch]), center)


def _center(shape: tuple[int, int], half: float, rng: np.random.Generator, overhang: float) -> tuple[float, float]:
    """See `random_view`; `half` is that of the crop's side in the image."""
    found = []
    for n in shape:
        first, last = min(half, n / 2), max(n - half, n / 2)
        if overhang and rng.random() < OVERHANGING:
            beyond = rng.uniform(-overhang, overhang)
            found.append(first + beyond if beyond < 0 else last + beyond)
        else:
            found.append(rng.uniform(first, last))
    return found[0], found[1]


def plain_view(
    shape: tuple[int, int],
    crop: int,
    rng: np.random.Generator,
    matrix: NDArray[np.float64],
    *,
    overhang: float = 0.0,
) -> View:
    """A view with this linear part; its center as in `random_view`."""
    half = crop / math.sqrt(abs(np.linalg.det(matrix))) / 2
    return View(matrix, _center(shape, half, rng, overhang))


def square_view(shape: tuple[int, int], crop: int, rng: np.random.Generator, *, overhang: float = 0.0) -> View:
    """One of the eight turns and flips of the square; pixels of the crop, whose side is even, are those of the sample.

    Its center is as in `random_view`.
    """
    turn, flip = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), rng.integers(4)), rng.choice([-1.0, 1.0])
    view = plain_view(shape, crop, rng, turn @ np.diag([1.0, flip]), overhang=overhang)
    return View(view.matrix, (float(round(view.center[0])), float(round(view.center[1]))))


def take_views(
    values: torch.Tensor,
    starts: Sequence[int],
    shapes: Sequence[tuple[int, int]],
    views: Sequence[View],
    crop: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops of samples that lie in `values` (P, 3 + M): colours (B, 3, crop, crop), maps (B, M, crop, crop), float32.

    Colours are interpolated linearly; of maps the nearest pixel counts, which may be NaN. Outside of a sample is zero:
    background.

    On the processor the compiled kernel does it, where it is installed; elsewhere PyTorch does, with the same result
    up to the rounding of float32.
    """
    begin, sizes = np.asarray(starts, np.int64), np.asarray(shapes, np.int64)
    centers = np.array([view.center for view in views], np.float32)
    back = np.stack([np.linalg.inv(view.matrix) for view in views]).astype(np.float32)
    kernel = _kernel() if values.device.type == "cpu" else None
    if kernel is None:
        return _gathered(values, begin, sizes, centers, back, crop)
    colours = torch.empty((len(views), COLOURS, crop, crop))
    maps = torch.empty((len(views), values.shape[1] - COLOURS, crop, crop))
    kernel(values.numpy().view(np.uint16), begin, sizes, centers, back, colours.numpy(), maps.numpy())
    return colours, maps


@cache
def _kernel() -> Callable[..., None] | None:
    """`_kernels.take_views`, or None where the extension module is not installed."""
    try:
        from cellweave._kernels import take_views
    except ImportError:
        return None
    return take_views


def _gathered(
    values: torch.Tensor,
    starts: NDArray[np.int64],
    shapes: NDArray[np.int64],
    centers: NDArray[np.float32],
    back: NDArray[np.float32],
    crop: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`take_views` by PyTorch on any device; `back` are the matrices from the crop to the sample."""

    def column(numbers: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(values.device).view(-1, 1, 1)

    steps = torch.arange(crop, dtype=torch.float32, device=values.device) - (crop - 1) / 2
    down, across = steps.view(1, -1, 1), steps.view(1, 1, -1)
    y = column(centers[:, 0]) + column(back[:, 0, 0]) * down + column(back[:, 0, 1]) * across
    x = column(centers[:, 1]) + column(back[:, 1, 0]) * down + column(back[:, 1, 1]) * across
    first, height, width = column(starts), column(shapes[:, 0]), column(shapes[:, 1])

    def pick(row: torch.Tensor, col: torch.Tensor, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
        inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        where = torch.where(inside, first + row * width + col, first)
        return values.index_select(0, where.view(-1))[:, columns].float().view(*where.shape, -1), inside

    taken, inside = pick(y.floor().long(), x.floor().long(), slice(COLOURS, None))
    maps = torch.where(inside[..., None], taken, 0.0)
    low_y, low_x = (y - 0.5).floor(), (x - 0.5).floor()
    part_y, part_x = y - 0.5 - low_y, x - 0.5 - low_x
    colours = torch.zeros((*y.shape, COLOURS), device=values.device)
    for dy in (0, 1):
        for dx in (0, 1):
            taken, inside = pick(low_y.long() + dy, low_x.long() + dx, slice(0, COLOURS))
            share = (part_y if dy else 1 - part_y) * (part_x if dx else 1 - part_x) * inside
            colours += taken * share[..., None]
    return colours.permute(0, 3, 1, 2), maps.permute(0, 3, 1, 2)


def random_stain(weights: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], list[float]]:
    """The planes of a stained sample: the policy's or random mixtures of its colours, and each colour's gamma.

    Two planes are any mixtures: so the net learns cells that are darker than their surroundings in some colours,
    whatever the dyes. Three are red, green and blue, each with up to 30 % of others.
    """
    gamma = [float(2.0**g) for g in rng.uniform(-0.5, 0.5, size=COLOURS)]
    if len(weights) == COLOURS:
        share = rng.uniform(0, 0.3)
        mixed = rng.dirichlet([0.5] * COLOURS, size=COLOURS)
        weights = ((1 - share) * weights + share * mixed).astype(np.float32)
    elif rng.random() < 0.5:
        weights = rng.dirichlet([0.5] * COLOURS, size=2).astype(np.float32)
    return weights, gamma


@dataclass(frozen=True)
class Contrast:
    """How the two planes of a crop are changed."""

    gamma: float
    drop_second: bool
    invert: bool
    gain: float
    offset: float
    shading: tuple[float, float]
    blur: float
    noise: float


def random_contrast(rng: np.random.Generator) -> Contrast:
    """Other gain, offset, gamma, shading, blur, noise; now and then inverted or without the second plane."""
    return Contrast(
        gamma=2.0 ** rng.uniform(-0.8, 0.8) if rng.random() < 0.5 else 1.0,
        drop_second=rng.random() < 0.1,
        invert=rng.random() < 0.05,
        gain=2.0 ** rng.uniform(-0.5, 0.5),
        offset=rng.uniform(-0.15, 0.15),
        shading=tuple(rng.uniform(-0.5, 0.5, size=2)) if rng.random() < 0.2 else (0.0, 0.0),
        blur=rng.uniform(0.5, 1.5) if rng.random() < 0.2 else 0.0,
        noise=rng.uniform(0, 0.1) if rng.random() < 0.5 else 0.0,
    )


def random_brightness(rng: np.random.Generator) -> Contrast:
    """Other gain and offset, nothing else."""
    gain, offset = rng.uniform(0.8, 1.2), rng.uniform(-0.2, 0.2)
    return Contrast(1.0, False, False, gain, offset, (0.0, 0.0), 0.0, 0.0)


def change_contrast(planes: torch.Tensor, changes: Sequence[Contrast], generator: torch.Generator) -> torch.Tensor:
    """Apply one `Contrast` to each of (B, P, Y, X). Planes that are empty stay empty, and equal ones stay equal."""
    device = planes.device

    def column(numbers: Sequence[float]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.float32, device=device).view(-1, 1, 1, 1)

    def some(chosen: Sequence[float | bool]) -> tuple[list[int], list[Contrast]]:
        crops = [k for k, value in enumerate(chosen) if value]
        return crops, [changes[k] for k in crops]

    planes = planes.clone()
    for k, _ in zip(*some([c.drop_second and planes.shape[1] == 2 for c in changes]), strict=True):
        planes[k, 1] *= ~planes[k, 0].any()
    used = planes.flatten(2).any(dim=2).float()[..., None, None]
    crops, them = some([c.gamma != 1 for c in changes])
    if crops:
        planes[crops] = _to_power(planes[crops], column([c.gamma for c in them]))
    crops, them = some([c.invert for c in changes])
    if crops:
        planes[crops] = used[crops] - planes[crops]
    planes *= column([c.gain for c in changes])
    crops, them = some([any(c.shading) for c in changes])
    if crops:
        ramp_y, ramp_x = (torch.linspace(-1, 1, n, device=device) for n in planes.shape[2:])
        slope = column([c.shading[0] for c in them]) * ramp_y.view(1, 1, -1, 1)
        slope = slope + column([c.shading[1] for c in them]) * ramp_x.view(1, 1, 1, -1)
        planes[crops] *= slope.exp()
    planes += used * column([c.offset for c in changes])
    crops, them = some([c.blur for c in changes])
    if crops:
        planes[crops] = _blurred(planes[crops], [c.blur for c in them])
    crops, them = some([c.noise for c in changes])
    if crops:
        noise = torch.randn((len(crops), *planes.shape[1:]), generator=generator, device=device)
        if planes.shape[1] > 2:
            gray = (planes[crops, 0] == planes[crops, 1]).flatten(1).all(dim=1)
            noise[gray] = noise[gray, :1]
        planes[crops] += noise * (used[crops] * column([c.noise for c in them]))
    return planes


def _to_power(values: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
    """``values ** exponents`` within 0..1; what is below or above is kept."""
    inside = values.clamp(0, 1)
    return inside**exponents + (values - inside)


def _blurred(planes: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """Gaussian blur of (B, P, Y, X), one sigma a crop."""
    sigma = torch.tensor(sigmas, device=planes.device).repeat_interleave(planes.shape[1])[:, None]
    taps = torch.exp(-0.5 * (torch.arange(-4, 5, device=planes.device) / sigma) ** 2)
    taps = taps / taps.sum(dim=1, keepdim=True)
    flat = planes.flatten(0, 1)[None]
    flat = F.conv2d(flat, taps[:, None, :, None], padding=(4, 0), groups=len(taps))
    flat = F.conv2d(flat, taps[:, None, None, :], padding=(0, 4), groups=len(taps))
    return flat.view(planes.shape)


@dataclass(frozen=True)
class Augmentation:
    """What is random in a crop besides its place.

    Parameters
    ----------
    geometry
        ``"any"``: `random_view`; ``"plain"``: `microscopy.random_geometry`; ``"square"``: quarter turns and flips, by
        whole pixels; ``"none"``: the picture as it is.
    pixels
        ``"contrast"``: `random_contrast` and `random_stain`; ``"acquisition"``: `microscopy.random_acquisition`;
        ``"brightness"``: `random_brightness`; ``"none"``: values as they are.
    overhang
        How far crops may reach beyond a sample in px, where borders matter (`MapFormat.reach`).
    superposed
        Share of the crops to which another is added (`superpose`).
    """

    geometry: Literal["any", "plain", "square", "none"]
    pixels: Literal["contrast", "acquisition", "brightness", "none"]
    overhang: float = OVERHANG
    superposed: float = 0.0


AUGMENTATIONS = {
    "standard": Augmentation("any", "contrast"),
    "microscopy": Augmentation("plain", "acquisition"),
    "classical": Augmentation("plain", "none"),
    "square": Augmentation("square", "brightness"),
    "superposed": Augmentation("square", "brightness", superposed=0.5),
    "none": Augmentation("none", "none"),
}
"""By the names of `TrainConfig.augmentation`."""


def _view(
    way: Augmentation, shape: tuple[int, int], crop: int, rng: np.random.Generator, representation: MapFormat
) -> View:
    kind, octaves, overhang = way.geometry, representation.octaves, way.overhang if representation.reach else 0.0
    if kind == "any":
        return random_view(shape, crop, rng, octaves=octaves, overhang=overhang)
    if kind == "square":
        return square_view(shape, crop, rng, overhang=overhang)
    matrix = random_geometry(rng, sized=octaves > 0) if kind == "plain" else np.eye(2)
    return plain_view(shape, crop, rng, matrix, overhang=overhang)


def on_image(shapes: Sequence[tuple[int, int]], views: Sequence[View], crop: int) -> NDArray[np.bool_]:
    """(B, crop + 2, crop + 2): which pixels of the crops, and of a frame of one pixel around, lie on the sample."""
    steps = np.arange(-1, crop + 1) - (crop - 1) / 2
    found = np.ones((len(views), crop + 2, crop + 2), np.bool_)
    for one, view, shape in zip(found, views, shapes, strict=True):
        back = np.linalg.inv(view.matrix)
        for at, (down, across), n in zip(view.center, back, shape, strict=True):
            if abs(at - n / 2) + (abs(down) + abs(across)) * steps[-1] >= n / 2:  # else all of it does
                place = at + down * steps[:, None] + across * steps
                one &= (place >= 0) & (place < n)
    return found


def _within_reach(seen: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """(B, crop, crop): what is nearer than `reach` px to an edge of the crop beyond which the sample goes on."""
    crop = seen.shape[1] - 2
    n = min(round(reach), int(LARGEST_REACH * crop))
    near = np.zeros((len(seen), crop, crop), np.bool_)
    near[:, :n] |= seen[:, :1, 1:-1]
    near[:, crop - n :] |= seen[:, -1:, 1:-1]
    near[:, :, :n] |= seen[:, 1:-1, :1]
    near[:, :, crop - n :] |= seen[:, 1:-1, -1:]
    return near


def superpose(
    planes: torch.Tensor, maps: torch.Tensor, inside: torch.Tensor, which: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the next crop of the batch to some: cells that lie on each other, as light adds up in a wide field.

    Parameters
    ----------
    planes, maps
        (B, P, Y, X), 0 where dark; (B, M, Y, X) densities, NaN where nothing is known.
    inside
        (B, 1, Y, X) bool: what is on the sample; beyond it nothing is added.
    which
        Numbers of the crops that become sums.

    Returns
    -------
    Of sums, planes over their 99th percentile where that is above 1, as `Normalisation` would do; sums of densities.
    """
    if not which:
        return planes, maps
    other = [(k + 1) % len(planes) for k in which]
    light = planes[which] + planes[other] * inside[which]
    bright = torch.quantile(light.flatten(2), 0.99, dim=2).clamp(min=1)
    planes, maps = planes.clone(), maps.clone()
    added = torch.where(inside[which], maps[other], 0.0)
    planes[which] = light / bright[..., None, None]
    maps[which] += added
    return planes, maps


def batch(
    samples: Samples,
    values: torch.Tensor,
    chosen: Sequence[int],
    crop: int,
    seed: Sequence[int],
    representation: MapFormat,
    *,
    augmentation: Augmentation = AUGMENTATIONS["standard"],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of samples: planes (B, P, crop, crop) and targets (B, T, crop, crop). The same seed, the same batch.

    Parameters
    ----------
    samples, values
        The samples, and their values as a tensor on the device where the batch is made.
    chosen
        Which sample each crop shows.
    crop, seed, representation
        Side in px; what the random numbers depend on; what the maps mean.
    augmentation
        What is random.

    Notes
    -----
    Beyond the border of a sample planes stay 0, whatever the brightness, as where a prediction pads an image.
    """
    starts = samples.starts
    facts = [samples.facts[k] for k in chosen]
    rngs = [np.random.default_rng([*seed, k]) for k in range(len(chosen))]
    shapes = [fact.shape for fact in facts]
    views = [_view(augmentation, shape, crop, rng, representation) for shape, rng in zip(shapes, rngs, strict=True)]
    colours, maps = take_views(values, [int(starts[k]) for k in chosen], shapes, views, crop)
    seen = on_image(shapes, views, crop)
    if representation.reach:
        near = torch.from_numpy(_within_reach(seen, representation.reach)).to(values.device)
        maps.masked_fill_(near[:, None], math.nan)

    weights = [np.asarray(fact.weights, np.float32) for fact in facts]
    stained = [k for k, fact in enumerate(facts) if fact.stained and augmentation.pixels == "contrast"]
    if stained:
        gamma = np.ones((len(stained), COLOURS, 1, 1), np.float32)
        for row, k in zip(gamma, stained, strict=True):
            weights[k], row[:, 0, 0] = random_stain(weights[k], rngs[k])
        colours[stained] = _to_power(colours[stained], torch.from_numpy(gamma).to(values.device))
    planes = torch.einsum("bpc,bcyx->bpyx", torch.from_numpy(np.stack(weights)).to(values.device), colours)
    inside = torch.from_numpy(seen[:, None, 1:-1, 1:-1]).to(values.device)
    if augmentation.superposed and len(chosen) > 1:
        which = [k for k, rng in enumerate(rngs) if rng.random() < augmentation.superposed]
        planes, maps = superpose(planes, maps, inside, which)
    generator = torch.Generator(values.device).manual_seed(_digest(seed))
    if augmentation.pixels == "contrast":
        planes = change_contrast(planes, [random_contrast(rng) for rng in rngs], generator)
    elif augmentation.pixels == "brightness":
        planes = change_contrast(planes, [random_brightness(rng) for rng in rngs], generator)
    elif augmentation.pixels == "acquisition":
        planes = change_acquisition(planes, [random_acquisition(rng) for rng in rngs], generator)
    if augmentation.pixels != "none":
        planes *= inside
    matrices = torch.from_numpy(np.stack([view.matrix for view in views]).astype(np.float32)).to(values.device)
    return planes, representation.transform(maps, matrices)


def _digest(seed: Sequence[int]) -> int:
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> 1)


def sampling_weights(
    groups: Sequence[str], weights: dict[str, float] | None = None, within: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Probability of each sample.

    A group of n samples gets a share of ``sqrt(n)``, so that small ones count. With `weights`, the groups named there
    get those shares of the whole, and the others share what is left as before; if nothing is left, they get none.
    Samples of a group share it in proportion to `within`, equally without it.

    Raises
    ------
    InputError
        When `weights` names a group that is not there, or leaves nothing to show.
    """
    from cellweave.core.errors import InputError

    names, inverse, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    given = weights or {}
    unknown = sorted(set(given) - set(names.tolist()))
    if unknown:
        raise InputError(f"weights name {', '.join(unknown)}; the groups of images are {', '.join(names)}")
    free = np.array([name not in given for name in names])
    shares = np.where(free, np.sqrt(counts), 0.0)
    if given:
        fixed = np.array([given.get(name, 0.0) for name in names])
        left = max(0.0, 1.0 - fixed.sum()) if free.any() else 0.0
        shares = fixed + (left * shares / shares.sum() if free.any() else 0.0)
    if not shares.sum() > 0:
        raise InputError("every group of images has weight 0; give one of them a weight")
    each = np.ones(len(inverse)) if within is None else np.asarray(within, np.float64)
    shares = shares[inverse] * each / np.bincount(inverse, each)[inverse]
    return np.asarray(shares / shares.sum())
