"""Weights and images made from a seed, the same on every machine and in every version of PyTorch.

Needs NumPy only, so that the peer's interpreter and cellweave's tests share it. Only raw uniform draws of
PCG64 are used; NumPy keeps these stable.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def seeded_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, NDArray[np.generic]]:
    """Make a Cellpose state dict of random, non-trivial numbers.

    One PCG64 stream of `seed` fills the arrays in the sorted order of their names, each in C order, with
    float64 draws u in [0, 1) that are mapped and rounded to float32:

    ================================  ==========================================
    ``diam_mean``, ``diam_labels``    30 and 24.5 (nothing drawn)
    ``*.num_batches_tracked``         1000, int64 (nothing drawn)
    ``*.running_var``                 0.5 + u
    1-D ``*.weight`` (batch norm)     0.5 + u
    other ``*.weight``                (2 u - 1) * sqrt(3 / fan-in)
    ``*.running_mean``, ``*.bias``    0.4 u - 0.2
    ================================  ==========================================

    Parameters
    ----------
    shapes
        Name and shape of every array.
    seed
        Seed of the stream.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    fixed = {"diam_mean": 30.0, "diam_labels": 24.5}
    weights: dict[str, NDArray[np.generic]] = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        if name in fixed:
            weights[name] = np.full(shape, fixed[name], np.float32)
            continue
        if name.endswith("num_batches_tracked"):
            weights[name] = np.full(shape, 1000, np.int64)
            continue
        draws = generator.random(shape)
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            draws = 0.5 + draws
        elif name.endswith("weight"):
            draws = (2 * draws - 1) * np.sqrt(3 / np.prod(shape[1:]))
        else:
            draws = 0.4 * draws - 0.2
        weights[name] = draws.astype(np.float32)
    return weights


def seeded_image(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Uniform noise in [0, 1) of `shape`, float32, from a PCG64 stream of `seed`."""
    return np.random.Generator(np.random.PCG64(seed)).random(shape).astype(np.float32)
