"""How well the outlines agree, whatever the sizes of the objects."""

from __future__ import annotations

import edt
import numpy as np
from numpy.typing import NDArray

from cellweave.core.labels import Labels


def boundary_pixels(labels: Labels) -> NDArray[np.bool_]:
    """(Y, X) mask of the object pixels with an upper, lower, left or right neighbour of another id.

    The edge of the image is no boundary: where an object goes on outside is not known.
    """
    edge = np.zeros(labels.shape, bool)
    vertical, horizontal = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= vertical
    edge[:-1] |= vertical
    edge[:, 1:] |= horizontal
    edge[:, :-1] |= horizontal
    return edge & (labels > 0)


def boundary_counts(truth: Labels, predicted: Labels, tolerance: float) -> tuple[int, int, int, int]:
    """Boundary pixels that lie near a boundary of the other image.

    The parts of the boundary F (Martin, Fowlkes and Malik, IEEE TPAMI 2004; Csurka et al., BMVC 2013):
    precision is the part of the predicted boundary within `tolerance` pixels (Euclidean) of the true one,
    recall the reverse. As Csurka et al. do, and other than Martin et al., pixels are not assigned one to one.

    Returns
    -------
    Predicted boundary pixels that are near, all of them, true ones that are near, all of them.
    """
    true_edge, predicted_edge = boundary_pixels(truth), boundary_pixels(predicted)
    return (
        _near(predicted_edge, true_edge, tolerance),
        int(np.count_nonzero(predicted_edge)),
        _near(true_edge, predicted_edge, tolerance),
        int(np.count_nonzero(true_edge)),
    )


def _near(edge: NDArray[np.bool_], other: NDArray[np.bool_], tolerance: float) -> int:
    if not edge.any() or not other.any():
        return 0
    return int(np.count_nonzero(edt.edtsq(~other)[edge] <= tolerance**2))
