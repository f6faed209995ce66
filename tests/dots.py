"""A model of heatmaps that was never trained, and pictures of dots that it counts well."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cellweave.core.output import NetOutput
from cellweave.core.points import Points
from cellweave.models import Segmenter
from cellweave.nets import FastUNet
from cellweave.prep import Normalisation
from cellweave.representations import Heatmap
from cellweave.representations.heatmap import CEILING, START

STEEP, LOW = 10.0, -8.0
"""The output of the net is the brightness (0..1) times the first plus the second."""


class Leaning(FastUNet):
    """Its output grows from left to right: flipped images have other counts."""

    def forward(self, x: torch.Tensor) -> NetOutput:
        maps, style, _ = super().forward(x)
        return NetOutput(maps + torch.linspace(-1, 1, maps.shape[-1]), style)


def dots_model(*, debris: bool = False, net_class: type[FastUNet] = FastUNet) -> Segmenter:
    """What is bright is dense; the second channel shows debris."""
    net = net_class(
        out_maps=1 + debris, widths=(8, 4, 4, 4)
    )  # 2 x 2 pixels of 2 planes are the 8 channels of the first scale
    first, last = net.encoder[0], net.decoder[0]
    for parameter in (*first.norm1.parameters(), *first.norm2.parameters(), *last.norm2.parameters()):
        nn.init.zeros_(parameter)
    with torch.no_grad():
        for part in (net.head, net.narrow[0]):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
        net.head.weight[range(4 + 4 * debris), range(4 + 4 * debris)] = STEEP
        net.head.bias[:] = LOW
    return Segmenter(
        net.eval(), Heatmap(debris=debris), 0.0, normalisation=Normalisation(0, 100, clip=None), name="dots"
    )


def dots_picture(points: Points, share: float = 1.0) -> NDArray[np.float32]:
    """(Y, X), 0..1: the brightness that makes `dots_model` give this share of the density of these points."""
    heatmap = Heatmap()
    part = np.clip(share * heatmap.encode(points)[0] / heatmap.unit / CEILING, 1e-12, 0.99)
    return np.asarray(np.clip((np.log(part / (1 - part)) - START - LOW) / STEEP, 0, None), np.float32)


def scattered(seed: int, shape: tuple[int, int], n: int, apart: float = 25.0, border: float = 8.0) -> Points:
    """Up to `n` points that are not close to each other or to the border."""
    rng = np.random.default_rng(seed)
    kept = np.empty((0, 2))
    for at in rng.uniform(border, np.array(shape) - border, (20 * n, 2)):
        if len(kept) < n and not (np.hypot(*(kept - at).T) < apart).any():
            kept = np.vstack([kept, at])
    return Points(kept, shape=shape)
