"""CIDRE: gain and offset of every pixel out of the images of an acquisition alone, without reference images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.prep.flatfield import FlatField, bending, read_frames, spline_basis

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

FEWEST = 3
"""Frames below which the field cannot be told from the sample."""
FEW = 20
"""Frames below which a warning is logged."""
LEVELS = 25
"""Bands of the sorted intensities."""
PIECES = 6
"""Pieces of the splines along an axis."""
FREEDOM = 8.0
"""Degrees of freedom of Student's t."""
SMOOTH_GAIN, SMOOTH_OFFSET, MEAN_GAIN = 1.0, 1e4, 10.0
"""Weights of the regularisers."""
SEPARATE = 0.6
"""Share of the variance of log light that lies between bright and dark blocks, from which on they are two kinds."""
SMOOTH_KINDS, ROUNDS, MOST_BY_KIND = 4.0, 12, 400
"""Of the second step: weight of the regularisers, repetitions, and frames that are used (evenly spaced)."""
_LEAST_SCALE = 3e-3
_FEWEST_BLOCKS, _MOST_SHIFT, _SETTLED = 10, 0.05, 1e-4
_STEPS = 400


def cidre(images: Sequence[Image], *, offset: float | None = None) -> FlatField:
    r"""Gain v and offset z of a microscope, from the images it took (Smith et al., Nature Methods 12, 404-406, 2015).

    A pixel sees ``I(x) = v(x) * light + z(x)``. Over many frames every place of the camera sees the same distribution
    of light, so its sorted intensities ``q_1(x) <= ... <= q_S(x)`` are those of the sample, ``Q_1 <= ... <= Q_S``,
    stretched by v and shifted by z. With ``g = log v`` the energy that is minimised over g, z, Q and s is ::

        E = 1/|X| sum_x sum_i w_i [ (nu + 1)/2 log(1 + r_i(x)^2 / nu) + log s ]                 likelihood
            + a_v/2 R(g) + a_z/2 (mean (z - mean z)^2 + B(z)) + a_m/2 (mean g)^2                regularisers
        r_i(x) = (q_i(x) - v(x) Q_i - z(x)) / s

    that is, Student's t with nu degrees of freedom, so that dirt and rare bright cells do not pull; a smooth gain; a
    smooth, nearly constant offset; a mean gain of 1. It is minimised by L-BFGS on block means of the images (at most 64
    blocks a side), a channel at a time.

    Sorted intensities are the same everywhere only where the sample is: colonies and sparse cells lie at some places
    more often than at others, and that is taken for light. A second step, ours, knows this. The corrected light is
    split into cells and background (Otsu's threshold of its logarithm); of each kind c and frame k the level a_ck is
    free, however many blocks of this kind there are at a place, and ::

        E' = sum_c 1/(s_c^2 p_c) sum_{k, x of kind c} rho((I_k(x) - z(x)) / (v(x) a_ck)) + 4 R(g)/2 + 4 a_m/2 (mean g)^2

    is minimised over g and a constant added to z by Gauss-Newton steps, rho being that of Student's t, s_c the spread
    of a kind and p_c the blocks that one independent piece of it covers; then it is split again. The background tells
    the shape of v up to a constant, cells tell the constant, that is, the offset. Samples without two kinds keep what
    the first step found.

    What else is ours and not the paper's: g and z are cubic splines and not free pixels; R is the energy of the third
    derivatives, so that the quadratic falloff of a common vignette costs nothing, and B that of the second; values are
    put in order by the even rows of a block and read from its odd rows, and the other way round, so that camera noise
    is not taken for light; neighbouring values are averaged to at most 25 bands; Q and s are found with the rest; and
    the weights ``w_i`` count independent pieces of sample (frames divided by the blocks that one piece covers), not
    pixels. The weights of the terms were chosen on simulated cells. The form of the energy is restated from what is
    commonly known of the method; it was not compared with the paper term by term.

    Parameters
    ----------
    images
        Frames of one camera and one setting, (C, Y, X) each alike; every time and depth is a frame. 50 are enough
        where cells are many; fewer give a rougher field. They are read one by one, band by band: a sequence that opens
        its files when it is indexed keeps memory small. Pixels that are NaN or infinite do not count.
    offset
        The camera's grey value of no light, where it is known. None estimates it; give it for bright-field images,
        whose light varies too little to tell a gain from an offset, and where cells are few on a dark ground: of 50
        simulated images with cells on 3 % of the pixels, the gain had an error of 1 % with it, 3 % without.

    Returns
    -------
    FlatField
        (C, Y, X), mean gain 1. A channel that is constant over all frames and pixels gets gain 1.

    Raises
    ------
    InputError
        For fewer than 3 frames, images of different sizes or channels (names the file), or a channel without finite
        pixels.
    """
    frames = read_frames(images, task="CIDRE")
    if frames.number < FEWEST:
        raise InputError(
            f"CIDRE: {frames.number} frames are too few to tell the light from the sample; give 20 or more"
        )
    if frames.number < FEW:
        log.warning("CIDRE: only %d frames; the field may follow the sample (20 or more are better)", frames.number)
    gain = np.empty(frames.shape, dtype=np.float32)
    zero = np.empty(frames.shape, dtype=np.float32)
    rows, columns = (spline_basis(n, PIECES) for n in frames.shape[1:])
    for c in range(frames.shape[0]):
        surface = _estimate(frames.values[:, :, c].astype(np.float64), offset)
        light = np.exp(rows @ surface.gain @ columns.T)
        gain[c] = light / light.mean()
        zero[c] = rows @ surface.offset @ columns.T
    facts: dict[str, str | int | float] = {"method": "CIDRE", "frames": frames.number}
    if offset is not None:
        facts["offset"] = offset
    return FlatField(gain, zero, facts, frames.channel_names)


class _Surface(NamedTuple):
    """Coefficients (k, k) of the splines of log gain and offset."""

    gain: Array
    offset: Array


class _Levels(NamedTuple):
    """Sorted intensities: values (S, h, w), weights of the bands (S,), blocks that have values (h, w)."""

    values: Array
    weights: Array
    known: NDArray[np.bool_]


def _estimate(halves: Array, offset: float | None) -> _Surface:
    """Surfaces of one channel; `halves` is (2, N, h, w)."""
    levels = _sorted(halves)
    used = levels.values[:, levels.known]
    low, high = float(used.min()), float(np.percentile(used, 99.5))
    k = PIECES + 3
    if not high - low > 1e-6 * max(abs(high), abs(low)):
        return _Surface(np.zeros((k, k)), np.full((k, k), 0.0 if offset is None else offset))
    unit = high - low
    limits = (min(low, 0.0), max(float(np.percentile(used[0], 1)), min(low, 0.0)))
    if offset is not None:
        limits = (offset, offset)
    scaled = levels._replace(values=levels.values / unit)
    bounds = (limits[0] / unit, limits[1] / unit)
    first = _Surface(*_minimise(scaled, bounds, fixed=offset is not None))
    found = _by_kind(halves / unit, first, None if offset is not None else bounds)
    return found._replace(offset=found.offset * unit)


def _sorted(halves: Array) -> _Levels:
    """Bands of sorted values of every block, with their weight; see `cidre`."""
    complete = np.asarray(np.isfinite(halves).all(axis=0))
    halves = np.where(complete, halves, np.nan)
    n = halves.shape[1]
    there = complete.sum(axis=0)
    # a block that misses frames spreads those it has over all ranks
    ranks = (np.arange(n)[:, None, None] + 0.5) / n * there
    taken = ranks.astype(np.intp)
    ordered = [
        np.take_along_axis(np.take_along_axis(other, np.argsort(one, axis=0), axis=0), taken, axis=0)
        for one, other in (halves, halves[::-1])
    ]
    known = there > 0
    values = np.where(known, (ordered[0] + ordered[1]) / 2, 0.0)
    starts = n * np.arange(min(n, LEVELS)) // min(n, LEVELS)
    counts = np.diff(np.append(starts, n)).astype(np.float64)
    bands = np.add.reduceat(values, starts, axis=0) / counts[:, None, None]
    return _Levels(bands, counts / _patch(halves.mean(axis=0)), known)


def _patch(frames: Array) -> float:
    """Blocks that one independent piece of the sample covers: how much slower than 1/n the variance of means falls."""
    with np.errstate(invalid="ignore"):
        count = np.isfinite(frames).sum(axis=0)
        mean = np.nansum(frames, axis=0) / np.maximum(count, 1)
    rest = np.nan_to_num(frames - mean)
    rest -= rest.mean(axis=(1, 2), keepdims=True)
    n, h, w = rest.shape
    a, b = max(h // 4, 1), max(w // 4, 1)
    parts = rest[:, : h // a * a, : w // b * b].reshape(n, h // a, a, w // b, b).mean(axis=(2, 4))
    fine, coarse = float((rest**2).mean()), float((parts**2).mean())
    return float(np.clip(a * b * coarse / fine, 1.0, h * w)) if fine > 0 else 1.0


def _minimise(levels: _Levels, limits: tuple[float, float], *, fixed: bool) -> tuple[Array, Array]:
    """Coefficients (k, k) of log gain and of offset; intensities in units of their range.

    The variables are scaled by a Cholesky factor of the regularisers, without which L-BFGS needs many more steps.
    """
    values, known = levels.values, levels.known
    weights = levels.weights[:, None, None] * known / known.sum()
    rows, columns = (spline_basis(n, PIECES) for n in known.shape)
    k, s = PIECES + 3, len(values)
    size = k * k
    mean = np.kron(rows.mean(axis=0), columns.mean(axis=0))
    mass = np.kron(rows.T @ rows / len(rows), columns.T @ columns / len(columns))
    on_gain = SMOOTH_GAIN * _third(PIECES) + MEAN_GAIN * np.outer(mean, mean)
    on_offset = SMOOTH_OFFSET * (mass + bending(PIECES))  # of the part of the offset that is not constant
    ridge = mass + 1e-6 * np.eye(size)
    gain_of, offset_of = (np.linalg.inv(np.linalg.cholesky(form + ridge)).T for form in (on_gain, on_offset))

    middle = np.median(values[:, known], axis=1)
    spread = np.median(np.abs(values[:, known] - middle[:, None]), axis=1) * 1.5
    scale = max(float(np.sqrt((spread**2).mean())), _LEAST_SCALE)
    step = scale / np.sqrt(levels.weights)
    start = 0.5 * (limits[0] + limits[1])

    def surfaces(p: Array) -> tuple[Array, Array, float]:
        return gain_of @ p[:size], offset_of @ p[size : 2 * size], float(p[2 * size])

    def energy(p: Array) -> tuple[float, Array]:
        gain, bend, zero = surfaces(p)
        light = middle - zero + step * p[2 * size + 1 : -1]
        g = np.clip(rows @ gain.reshape(k, k) @ columns.T, -4.0, 4.0)
        z = zero + rows @ bend.reshape(k, k) @ columns.T
        v, width = np.exp(g), np.exp(p[-1])
        stretched = v * light[:, None, None]
        r = (values - stretched - z) / width
        pull = weights * (FREEDOM + 1) * r / (FREEDOM + r * r)
        fit = weights * ((FREEDOM + 1) / 2 * np.log1p(r * r / FREEDOM) + p[-1])
        by_g = -(pull * stretched).sum(axis=0) / width
        by_z = -pull.sum(axis=0) / width
        by_light = -(pull * v).sum(axis=(1, 2)) / width
        total = fit.sum() + (gain @ on_gain @ gain + bend @ on_offset @ bend) / 2
        slope = np.concatenate([
            gain_of.T @ ((rows.T @ by_g @ columns).ravel() + on_gain @ gain),
            offset_of.T @ ((rows.T @ by_z @ columns).ravel() + on_offset @ bend),
            [by_z.sum() - by_light.sum()],
            by_light * step,
            [(weights - pull * r).sum()],
        ])  # fmt: skip
        return float(total), slope

    first = np.concatenate([np.zeros(2 * size), [start], np.zeros(s), [np.log(scale)]])
    free = (None, None)
    bounds = [free] * size + [(0.0, 0.0) if fixed else free] * size + [limits] + [free] * s
    found = _lbfgs(energy, first, [*bounds, (np.log(_LEAST_SCALE), np.log(3.0))])
    gain, bend, zero = surfaces(found)
    return gain.reshape(k, k), zero + bend.reshape(k, k)


def _by_kind(halves: Array, first: _Surface, limits: tuple[float, float] | None) -> _Surface:
    """The second step of `cidre`; without `limits` the offset stays."""
    n, h, w = halves.shape[1:]
    values = halves[:, :: -(-n // MOST_BY_KIND)].reshape(2, -1, h * w)
    rows, columns = (spline_basis(size, PIECES) for size in (h, w))
    basis = np.einsum("ya,xb->yxab", rows, columns).reshape(h * w, -1)
    mean, size = basis.mean(axis=0), basis.shape[1]
    smooth = SMOOTH_KINDS * (SMOOTH_GAIN * _third(PIECES) + MEAN_GAIN * np.outer(mean, mean))
    gain, offset = first.gain.ravel(), basis @ first.offset.ravel()
    level, shift, separation = float(offset.mean()), 0.0, 0.0
    for _ in range(ROUNDS):
        v = np.exp(np.clip(basis @ gain, -4.0, 4.0))
        light = (values - offset - shift) / v
        bright, separation = _bright(light)
        system = np.zeros((size + 1, size + 1))
        system[:size, :size] = smooth
        slope = np.append(-smooth @ gain, 0.0)
        system[size, size] = 1.0  # the offset stays in the range of the values
        for kind in (bright, ~bright):
            # chosen by one half of the rows and measured on the other, or noise would be chosen as light
            found = _kind(light, kind[::-1] & np.isfinite(light), v, basis, (h, w))
            if found:
                system += found[0]
                slope += found[1]
        system += 1e-9 * np.diag(np.diag(system))
        if limits:
            wish = shift + float(np.clip(np.linalg.solve(system, slope)[size], -_MOST_SHIFT, _MOST_SHIFT))
            wish = min(max(wish, limits[0] - level), limits[1] - level)
            slope -= system[:, size] * (wish - shift)
            shift = wish
        step = np.linalg.solve(system[:size, :size], slope[:size])
        gain = gain + step
        if np.abs(basis @ step).max() < _SETTLED:
            break
    if separation < SEPARATE:
        log.info("CIDRE: cells and background cannot be told apart; sorted intensities decide alone")
        return first
    k = len(first.gain)
    return _Surface(gain.reshape(k, k), first.offset + shift)


def _bright(light: Array) -> tuple[NDArray[np.bool_], float]:
    """Where light is over Otsu's threshold of its logarithm, and the share of the variance between the two sides."""
    positive = light[light > 0]
    if not len(positive):
        return np.zeros(light.shape, bool), 0.0
    with np.errstate(invalid="ignore"):
        values = np.log(np.maximum(light, np.percentile(positive, 1)))
    known = values[np.isfinite(values)]
    total = float(known.var())
    if total <= 1e-12:
        return np.zeros(light.shape, bool), 0.0
    counts, edges = np.histogram(known, 128)
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * (edges[1:] + edges[:-1]) / 2)
    n, whole = float(counts.sum()), float(sums[-1])
    between = (whole * below / n - sums[:-1]) ** 2 / (below * (n - below))
    best = int(np.argmax(between))
    return values > edges[best + 1], float(between[best]) / total


def _kind(
    light: Array, there: NDArray[np.bool_], v: Array, basis: Array, shape: tuple[int, int]
) -> tuple[Array, Array] | None:
    """Normal equations of the blocks of one kind, `there`; their residuals are relative to the level of the frame."""
    level = np.full(light.shape[1], np.nan)
    for k in np.flatnonzero(there.sum(axis=(0, 2)) >= _FEWEST_BLOCKS):
        level[k] = np.median(light[:, k][there[:, k]])
    used = level > 0
    there = there & used[:, None]
    if not there.any():
        return None
    level = np.where(used, level, 1.0)

    def relative() -> Array:
        return np.where(there, light / level[:, None] - 1.0, 0.0)

    r = relative()
    spread = max(1.4826 * float(np.median(np.abs(r[there]))), _LEAST_SCALE)
    for _ in range(3):
        weight = there * (FREEDOM + 1) / (FREEDOM + (r / spread) ** 2)
        level = level * (1.0 + (weight * r).sum(axis=(0, 2)) / np.maximum(weight.sum(axis=(0, 2)), 1e-9))
        r = relative()
    weight = there * (FREEDOM + 1) / (FREEDOM + (r / spread) ** 2)
    pulled, weight = (weight * r).sum(axis=0), weight.sum(axis=0)
    by_offset = 1.0 / (v * level[:, None])
    in_frame = np.maximum(weight.sum(axis=1), 1e-9)[:, None]
    of_gain, of_offset = weight @ basis, (weight * by_offset).sum(axis=1)
    design = np.column_stack([of_gain, of_offset])  # (frames, k + 1): what the level of a frame takes up
    cross = basis.T @ (weight * by_offset).sum(axis=0)
    own = np.block([
        [basis.T @ (weight.sum(axis=0)[:, None] * basis), cross[:, None]],
        [cross[None], np.array([[(weight * by_offset**2).sum()]])],
    ])  # fmt: skip
    slope = np.append(basis.T @ pulled.sum(axis=0), (pulled * by_offset).sum())
    share = 1.0 / (2 * spread**2 * _piece(pulled.reshape(-1, *shape)))
    return share * (own - design.T @ (design / in_frame)), share * (
        slope - design.T @ (pulled.sum(axis=1) / in_frame[:, 0])
    )


def _piece(pulled: Array) -> float:
    """Blocks that one independent piece covers: how much larger sums vary than those of independent blocks."""
    n, h, w = pulled.shape
    a, b = max(h // 4, 1), max(w // 4, 1)
    parts = pulled[:, : h // a * a, : w // b * b].reshape(n, h // a, a, w // b, b)
    squares = float((parts**2).sum())
    return max(float((parts.sum(axis=(2, 4)) ** 2).sum()) / squares, 1.0) if squares > 0 else 1.0


def _lbfgs(energy: Callable[[Array], tuple[float, Array]], first: Array, bounds: list[Any]) -> Array:
    from scipy.optimize import minimize  # here, so that training runs where SciPy is not (cellweave.train.bare)

    options = {"maxiter": _STEPS, "maxfun": 2 * _STEPS, "maxcor": 20, "ftol": 1e-10}
    result = minimize(energy, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    log.debug("CIDRE: %s after %d steps, energy %g", result.message, result.nit, result.fun)
    return np.asarray(result.x, dtype=np.float64)


def _third(pieces: int) -> Array:
    """Form of ``mean(f_yyy^2 + 3 f_yyx^2 + 3 f_yxx^2 + f_xxx^2)`` on coefficients, as `bending`: 0 for quadratics."""
    unit = np.eye(pieces + 3)
    one, two, three = (d.T @ d for d in (np.diff(unit, n, axis=0) * (pieces / 2) ** n for n in (1, 2, 3)))
    form = np.kron(three, unit) + np.kron(unit, three) + 3 * (np.kron(two, one) + np.kron(one, two))
    return np.asarray(form / len(unit) ** 2)
