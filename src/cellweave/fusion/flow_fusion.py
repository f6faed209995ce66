"""Flow fusion: the mean of the maps of several models, which is then decoded once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave.core.errors import InputError
from cellweave.fusion.patterns import Raters, present

Maps = NDArray[np.float32]


def flow_fusion(maps: Raters, *, weights: ArrayLike | None = None) -> Maps:
    """Weighted mean of the flow and probability maps of K models over those that are present.

    ``mean = sum_k w_k maps_k / sum_k w_k``. With equal weights it is the average of Sec. 3.5 of the paper, from
    ``{(F_X^k, F_Y^k, P^k)}`` to ``(mean F_X, mean F_Y, mean P)``, but that P are probabilities here; those of the
    paper, Cellpose's, are their logits, whose mean a single sure model sways more. Flows are vectors and their mean is
    not brought back to length 1 (the paper does not either): where the models point in different directions it is
    short, which tells the decoder, and the score of an object, that they are in doubt. Any other maps can be fused as
    well, star distances or energies, where their mean has a meaning.

    Parameters
    ----------
    maps
        K arrays (M, Y, X) or (M, Z, Y, X) of one shape, or one array (K, M, Y, X); None for a missing channel.
        Probabilities, not logits.
    weights
        (K,) numbers, not negative, of any sum; 0 leaves a model out. None: all equal.

    Returns
    -------
    float32 of the shape of one, for one call of the representation's ``decode``.

    Raises
    ------
    InputError
        When no model is present, the shapes differ, a weight is negative or not finite, or a map holds NaN or infinity.

    References
    ----------
    *Cell Segmentation in Images Without Structural Fluorescent Reporters*, Sec. 3.5, "Flow Fusion (FF)".
    """
    models, kept_weights = present(maps, weights)
    first = np.asarray(maps[models[0]])
    mean = np.array(first, np.float32)
    if mean.ndim not in (3, 4):
        raise InputError(f"the maps of model {models[0]} have shape {mean.shape}; maps are (M, Y, X) or (M, Z, Y, X)")
    step = np.empty_like(mean)
    total = kept_weights[0]
    for model, weight in zip(models[1:], kept_weights[1:], strict=True):
        values = np.asarray(maps[model])
        if values.shape != mean.shape:
            raise InputError(
                f"the maps of model {models[0]} have shape {mean.shape} and those of model {model} {values.shape}; "
                "all must be the same maps of the same picture"
            )
        total += weight
        np.subtract(values, mean, out=step, casting="same_kind")  # so that the mean of equal maps is exactly those
        step *= np.float32(weight / total)
        mean += step
    if not np.isfinite(mean).all():
        bad = [int(model) for model in models if not np.isfinite(np.asarray(maps[model])).all()]
        raise InputError(f"maps of models {bad} hold NaN or infinite values; leave these models out (give None)")
    return mean
