"""Cell Segmenters that were never trained, for tests: small nets of fixed seeds, whose outputs have a useful range."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from cellweave.models import CellSegmenter, Segmenter
from cellweave.nets import AnchorUNet
from cellweave.prep import Channels, Normalisation
from cellweave.representations import DistanceFlows, Representation, WatershedEnergy

WIDTHS = (8, 8, 8, 8)


def branch(seed: int, representation: Representation | None = None) -> Segmenter:
    """A branch that finds something everywhere: its maps are noise of about the range that trained nets give."""
    representation = representation or WatershedEnergy()
    detects = representation.points > 0
    torch.manual_seed(seed)
    maps = len(representation.map_names) - representation.points
    net = AnchorUNet(out_maps=maps, widths=WIDTHS, boxes=detects).eval()
    with torch.no_grad():
        blobs = F.interpolate(torch.rand(1, 3, 12, 12), 128, mode="bicubic").clamp(0, 1)
        seen = net(blobs).maps[0]
        scale = 2 / seen.flatten(1).std(dim=1)
        net.head.weight *= scale[:, None, None, None]
        net.head.bias -= scale * seen.flatten(1).mean(dim=1) - 1.0
        if net.box_head is not None:
            net.box_head.bias[4::6] = 0.0
    normalisation, channels = Normalisation(0.1, 99.9, clip=(0.0, 1.0)), Channels("color")
    return Segmenter(net, representation, 0.0, normalisation, channels, name=f"branch {seed}")


def sure(model: Segmenter, probability: float) -> Segmenter:
    """The branch with this probability at every pixel: its quality, if it is over 0.5."""
    which = model.representation.map_names.index("probability")
    with torch.no_grad():
        model.net.head.weight[which] = 0  # type: ignore[union-attr, operator, index]
        model.net.head.bias[which] = math.log(probability / (1 - probability))  # type: ignore[union-attr, operator, index]
    return model


def cell_segmenter() -> CellSegmenter:
    """One with a branch for all images, one for fluorescence and one for elongated cells."""
    branches = {"omnipose": branch(2, DistanceFlows()), "general": branch(0), "fluorescence": branch(1)}
    return CellSegmenter(branches, name="tiny system", card={"Training data": "none", "Recipe": {"epochs": "0"}})
