"""A U-Net with nested skip paths and attention on the encoder of a phone: the net that was published for heatmaps."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellweave.core.output import NetOutput
from cellweave.nets.features import check_input, pooled_style

NORM_EPSILON = 1e-3


class NormConv(nn.Sequential):
    """Convolution that keeps the size (over `stride`), batch normalisation, activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: nn.Module | None = None,
    ) -> None:
        conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )
        parts = [conv, nn.BatchNorm2d(out_channels, eps=NORM_EPSILON), act]
        super().__init__(*(part for part in parts if part is not None))


class SqueezeExcite(nn.Module):
    """Channels times a weight in 0..1 that depends on the means of all of them (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int, gate: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2, self.gate = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1), gate

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.gate(self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))))
        return x * weights


class Inverted(nn.Module):
    """Inverted residual block (MobileNetV3): widen by 1 x 1, one filter a channel, squeeze and excite, narrow by 1 x 1.

    Where the size and the number of channels stay, the input is added. Parts have the names of ImageNet's weights.
    """

    def __init__(self, in_channels: int, out_channels: int, plan: Plan) -> None:
        super().__init__()
        wide = in_channels if plan.expand == 1 else _round(plan.expand * in_channels)
        act = nn.Hardswish if plan.hard else nn.ReLU
        parts: list[nn.Module] = []
        if wide != in_channels:
            parts.append(NormConv(in_channels, wide, act=act()))
        parts.append(NormConv(wide, wide, kernel=plan.kernel, stride=plan.stride, groups=wide, act=act()))
        if plan.squeeze:
            parts.append(SqueezeExcite(wide, _round(wide / 4), nn.Hardsigmoid()))
        parts.append(NormConv(wide, out_channels))
        self.block = nn.Sequential(*parts)
        self.shortcut = plan.stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.shortcut else y


class Plan(NamedTuple):
    """One block of the encoder: its scale, side of the filters, widening, squeeze-and-excite, hard swish, stride."""

    scale: int
    kernel: int
    expand: float
    squeeze: bool = False
    hard: bool = False
    stride: int = 1


PLANS = (
    Plan(0, 3, 1),
    Plan(1, 3, 4, stride=2),
    Plan(1, 3, 3),
    Plan(2, 5, 3, squeeze=True, stride=2),
    Plan(2, 5, 3, squeeze=True),
    Plan(2, 5, 3, squeeze=True),
    Plan(3, 3, 6, hard=True, stride=2),
    Plan(3, 3, 2.5, hard=True),
    Plan(3, 3, 2.3, hard=True),
    Plan(3, 3, 2.3, hard=True),
    Plan(3, 3, 6, squeeze=True, hard=True),
    Plan(3, 3, 6, squeeze=True, hard=True),
    Plan(4, 5, 6, squeeze=True, hard=True, stride=2),
    Plan(4, 5, 6, squeeze=True, hard=True),
    Plan(4, 5, 6, squeeze=True, hard=True),
)
"""The blocks of MobileNetV3-Large (Howard et al. 2019, Table 1)."""
NARROWER, NARROW_BLOCKS = 5 / 7, range(6, 10)
"""The first four blocks of scale 3 have 80 channels for the 112 of the last two."""


class Encoder(nn.Module):
    """MobileNetV3-Large without its last convolution and classifier; parts have the names of ImageNet's weights."""

    def __init__(self, in_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        parts: list[nn.Module] = [NormConv(in_channels, widths[0], kernel=3, stride=2, act=nn.Hardswish())]
        before = widths[0]
        for k, plan in enumerate(PLANS):
            width = widths[plan.scale] if k not in NARROW_BLOCKS else _round(NARROWER * widths[plan.scale])
            parts.append(Inverted(before, width, plan))
            before = width
        self.features = nn.Sequential(*parts)
        scales = [0, *(plan.scale for plan in PLANS)]
        self.ends = [k for k in range(len(scales)) if k + 1 == len(scales) or scales[k + 1] > scales[k]]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size."""
        found = []
        for k, part in enumerate(self.features):
            x = part(x)
            if k in self.ends:
                found.append(x)
        return found


class Attention(nn.Module):
    """Concurrent spatial and channel squeeze and excitation (scSE): the sum of both, channels squeezed to a half."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = SqueezeExcite(channels, max(1, channels // 2), nn.Sigmoid())
        self.place = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.channel(x) + x * torch.sigmoid(self.place(x))
        return y


class Node(nn.Sequential):
    """One node of the nested paths: two 3 x 3 convolutions, then attention."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            NormConv(in_channels, out_channels, kernel=3, act=nn.ReLU(inplace=True)),
            NormConv(out_channels, out_channels, kernel=3, act=nn.ReLU(inplace=True)),
            Attention(out_channels),
        )


class NestedUNet(nn.Module):
    """U-Net++ with scSE attention in its decoder, on MobileNetV3-Large: the published choice for CellNet.

    Between encoder and decoder lie nodes: X(i, j) at scale i takes all X(i, 0) to X(i, j - 1) and the enlarged
    X(i + 1, j - 1), where X(i, 0) are the encoder's features; the maps come from X(0, 4). With three channels and one
    map it has 3.50 M parameters and does fewer multiply-adds a pixel than `FastUNet`, in many more layers.

    Channels are squeezed by means over the whole tile, so that maps depend on all of it. The style vector is a side
    output: the mean of each encoder scale's features, together of unit norm.

    Parameters
    ----------
    in_channels, out_maps
        Channels in, maps out.
    widths
        Channels of the five scales, finest first, in the encoder and in the nodes.

    References
    ----------
    Zhou et al. 2018, *UNet++: A Nested U-Net Architecture for Medical Image Segmentation*.
    Roy, Navab, Wachinger 2018, *Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks*.
    Howard et al. 2019, *Searching for MobileNetV3*.

    Notes
    -----
    Deviations: the finest nodes are at half of the size, the first that the encoder has, and sub-pixel convolution
    unfolds the maps from them, as in `FastUNet`; enlargement takes the nearest pixel; attention is in the nodes only;
    there is no deep supervision.

    Weights of a MobileNetV3-Large that was trained on ImageNet fit the encoder of a net of the default widths; see
    `cellweave.models.imagenet_weights`.

    The weights of places begin at 0, so that all places count a half: drawn like those before a ReLU, they would
    saturate most of the sigmoids.
    """

    stride = 32
    """Sides of the input must be multiples of this."""
    radius = None
    """No bound in px on what can change an output: attention depends on the whole tile."""
    tile = 640
    """Side in px of the tiles that it is run on."""

    def __init__(
        self,
        in_channels: int = 2,
        out_maps: int = 1,
        widths: tuple[int, int, int, int, int] = (16, 24, 40, 112, 160),
    ) -> None:
        super().__init__()
        self.in_channels, self.out_maps, self.widths = in_channels, out_maps, tuple(widths)
        self.encoder = Encoder(in_channels, self.widths)
        self.nodes = nn.ModuleDict(
            {
                f"{i}_{j}": Node(j * self.widths[i] + self.widths[i + 1], self.widths[i])
                for j in range(1, len(widths))
                for i in range(len(widths) - j)
            }
        )
        self.head = nn.Conv2d(self.widths[0], 4 * out_maps, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1 and module is not self.head:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Attention):
                nn.init.zeros_(module.place.weight)

    def forward(self, x: Tensor) -> NetOutput:
        """Predict maps and style.

        Parameters
        ----------
        x
            (B, C, Y, X) floating point; Y and X multiples of 32.

        Returns
        -------
        NetOutput
            maps (B, out_maps, Y, X) and style (B, sum(widths)).

        Raises
        ------
        InputError
            For another number of channels, or sides that are no multiples of 32.
        """
        features = self._encode(x)
        rows = [[one] for one in features]  # X(i, 0), X(i, 1) and so on, of each scale
        for j in range(1, len(rows)):
            for i in range(len(rows) - j):
                below = F.interpolate(rows[i + 1][j - 1], scale_factor=2.0, mode="nearest")
                rows[i].append(self.nodes[f"{i}_{j}"](torch.cat([*rows[i], below], dim=1)))
        return NetOutput(F.pixel_shuffle(self.head(rows[0][-1]), 2), pooled_style(features))

    def style(self, x: Tensor) -> Tensor:
        """The style of `forward`, (B, sum(widths)), in a part of its time."""
        return pooled_style(self._encode(x))

    def _encode(self, x: Tensor) -> list[Tensor]:
        check_input(x, self.in_channels, self.stride)
        features: list[Tensor] = self.encoder(x)
        return features


def _round(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and never under 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
