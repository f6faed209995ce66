"""The network of Cell Segmenter: a ResNet-18 U-Net that predicts maps and, on a coarser grid, boxes of cells."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellweave.core.output import NetOutput
from cellweave.nets.features import check_input, pooled_style

ANCHOR_COUNT, BOX_NUMBERS = 3, 6
"""Anchors in each cell of the grid of boxes, and numbers of each: ty, tx, th, tw, objectness logit, class logit."""
PRIOR = 0.01
"""Probability of an object with which the training of the boxes begins (Lin et al. 2017, section 4.1)."""


class NormConv(nn.Sequential):
    """Convolution that keeps the size, batch normalisation, SiLU: the *Conv* of Table 7."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int = 1) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False))
        self.add_module("norm", nn.BatchNorm2d(out_channels))
        self.add_module("act", nn.SiLU(inplace=True))


class Basic(nn.Module):
    """Basic residual block of ResNet (He et al. 2016), with SiLU; parts have the names of ImageNet's weights."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act = nn.SiLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        z: Tensor = self.act(y + self.downsample(x))
        return z


class Encoder(nn.Module):
    """ResNet-18 without its classifier, with SiLU; parts have the names of ImageNet's weights."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = widths
        self.conv1 = nn.Conv2d(in_channels, a, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(a)
        self.act = nn.SiLU()
        self.layer1 = nn.Sequential(Basic(a, a), Basic(a, a))
        self.layer2 = nn.Sequential(Basic(a, b, stride=2), Basic(b, b))
        self.layer3 = nn.Sequential(Basic(b, c, stride=2), Basic(c, c))
        self.layer4 = nn.Sequential(Basic(c, d, stride=2), Basic(d, d))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of the stem at 1/2 of the size and of the four layers at 1/4, 1/8, 1/16 and 1/32."""
        features = [self.act(self.bn1(self.conv1(x)))]
        x = F.max_pool2d(features[0], 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


class PyramidPool(nn.Module):
    """Spatial pyramid pooling (He et al. 2014), the fast form (SPPF): half the width by 1 x 1, then one maximum pooling
    after another, so that three of 5 x 5 see 5, 9 and 13 px; all four together by 1 x 1 to the width.
    """

    def __init__(self, channels: int, *, kernel: int = 5) -> None:
        super().__init__()
        self.narrow = NormConv(channels, channels // 2)
        self.widen = NormConv(4 * (channels // 2), channels)
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.narrow(x)]
        for _ in range(3):
            levels.append(F.max_pool2d(levels[-1], self.kernel, stride=1, padding=self.kernel // 2))
        y: Tensor = self.widen(torch.cat(levels, dim=1))
        return y


class CrossStage(nn.Module):
    """Cross stage partial bottleneck with three convolutions (C3; Wang et al. 2020), without shortcut.

    Two paths of half the width, each from its own 1 x 1; one goes on through a bottleneck of 1 x 1 and 3 x 3; both are
    merged by 1 x 1.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.deep = nn.Sequential(NormConv(in_channels, half), NormConv(half, half), NormConv(half, half, kernel=3))
        self.bypass = NormConv(in_channels, half)
        self.merge = NormConv(2 * half, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.merge(torch.cat([self.deep(x), self.bypass(x)], dim=1))
        return y


class Up(nn.Module):
    """Convolution, enlargement by 2, concatenation with the features of that scale, `CrossStage`."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int) -> None:
        super().__init__()
        self.conv = NormConv(in_channels, out_channels, kernel=kernel)
        self.stage = CrossStage(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.stage(torch.cat([_enlarge(self.conv(x)), skip], dim=1))
        return y


class AnchorUNet(nn.Module):
    """U-Net with a ResNet-18 encoder, maps in full size and anchor boxes on a grid of 8 px.

    Table 7 of Cell Segmenter (Hu et al. 2022), 12.61 M parameters with the defaults: ResNet-18 with SiLU,
    `PyramidPool`, four steps up with `CrossStage` blocks, bilinear enlargement with aligned corners. Maps come from the
    last step, boxes from the one at 1/8 of the size, each by a 1 x 1 convolution. That of the maps runs before the last
    enlargement, not after it: the numbers are the same (both are linear, and the weights of an enlargement sum to one)
    at 1/4 of the work.

    Weights start from He's normal initialisation (Table 2), and the objectness from the probability `PRIOR` everywhere,
    so that the many places without an object do not rule the first steps. The style vector is a side output: the mean
    of each encoder layer's features, together of unit norm.

    Parameters
    ----------
    in_channels, out_maps
        Channels in, maps out.
    widths
        Channels of the four layers of the encoder, finest first; each 2 or more.
    boxes
        Whether the net has the head that finds boxes. Without it, it is the net of the Omnipose branch.

    References
    ----------
    Hu et al. 2022, *Cell Segmenter: A General Framework for Multi-modality Cell Segmentation*, NeurIPS challenge.
    """

    stride = 32
    """Sides of the input must be multiples of this."""
    radius = None
    """No bound in px on what can change an output: the enlargement with aligned corners depends on the tile's size."""
    tile = 640
    """Side in px of the tiles that it is run on (Sec. 3.2.2)."""

    def __init__(
        self,
        in_channels: int = 3,
        out_maps: int = 2,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        boxes: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_maps, self.widths, self.boxes = in_channels, out_maps, tuple(widths), boxes
        a, b, c, d = widths
        self.encoder = Encoder(in_channels, widths)
        self.pool = PyramidPool(d)
        self.up = nn.ModuleList([Up(d, c, kernel=1), Up(c, b, kernel=1), Up(b, a, kernel=3), Up(a, a, kernel=3)])
        self.head = nn.Conv2d(a, out_maps, 1)
        self.box_head = nn.Conv2d(b, ANCHOR_COUNT * BOX_NUMBERS, 1) if boxes else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.box_head is not None and self.box_head.bias is not None:
            nn.init.constant_(self.box_head.bias.data[4::BOX_NUMBERS], math.log(PRIOR / (1 - PRIOR)))

    def forward(self, x: Tensor) -> NetOutput:
        """Predict maps, style and boxes.

        Parameters
        ----------
        x
            (B, C, Y, X) floating point, 0..1; Y and X multiples of 32.

        Returns
        -------
        NetOutput
            maps (B, out_maps, Y, X), style (B, sum(widths)) and boxes (B, 3, 6, Y / 8, X / 8) or None, all float32.

        Raises
        ------
        InputError
            For another number of channels, or sides that are no multiples of 32.
        """
        features = self._encode(x)
        x, boxes = self.pool(features[-1]), None
        for k, (up, skip) in enumerate(zip(self.up, features[-2::-1], strict=True)):
            x = up(x, skip)
            if k == 1 and self.box_head is not None:
                boxes = self.box_head(x).float().unflatten(1, (ANCHOR_COUNT, BOX_NUMBERS))
        return NetOutput(_enlarge(self.head(x).float()), pooled_style(features[1:]), boxes)

    def style(self, x: Tensor) -> Tensor:
        """The style of `forward`, (B, sum(widths)), in a part of its time."""
        return pooled_style(self._encode(x)[1:])

    def _encode(self, x: Tensor) -> list[Tensor]:
        check_input(x, self.in_channels, self.stride)
        features: list[Tensor] = self.encoder(x)
        return features


def _enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
