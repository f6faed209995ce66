"""A small U-Net for laptop processors: the net of the embedded model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cellweave.core.output import NetOutput
from cellweave.nets.features import check_input, pooled_style


class Residual(nn.Module):
    """``relu(norm(conv(relu(norm(conv(x)))))) + P(x)``: two 3 x 3 convolutions; P is 1 x 1 where the width changes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.project = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = F.relu(self.norm2(self.conv2(y)), inplace=True)
        z: Tensor = self.project(x)
        return y + z


class FastUNet(nn.Module):
    """U-Net that works at half resolution and writes full resolution.

    The stem folds 2 x 2 pixels into channels, the head unfolds them (sub-pixel convolution, Shi et al. 2016), so that
    no convolution runs on the full grid. Four scales (1/2 to 1/16), additive skips as in Cellpose. Nothing global feeds
    the maps: a pixel's output depends on input within `radius` px only, so that tiling with that halo is exact. The
    style vector is a side output for the size model: the mean of each encoder scale's features, together of unit norm.

    Parameters
    ----------
    in_channels, out_maps
        Channels in, maps out.
    widths
        Channels of the four scales.
    """

    stride = 16
    """Sides of the input must be multiples of this."""
    radius = 128
    """Largest distance in px from which input can reach an output pixel."""
    tile = 2048
    """Side in px of the tiles that it is run on."""

    def __init__(
        self, in_channels: int = 2, out_maps: int = 3, widths: tuple[int, int, int, int] = (32, 64, 128, 256)
    ) -> None:
        super().__init__()
        self.in_channels, self.out_maps, self.widths = in_channels, out_maps, tuple(widths)
        a, b, c, d = widths
        self.encoder = nn.ModuleList(
            [
                Residual(4 * in_channels, a),
                Residual(a, b),
                nn.Sequential(Residual(b, c), Residual(c, c)),
                Residual(c, d),
            ]
        )
        self.narrow = nn.ModuleList([nn.Conv2d(b, a, 1), nn.Conv2d(c, b, 1), nn.Conv2d(d, c, 1)])
        self.decoder = nn.ModuleList([Residual(a, a), Residual(b, b), Residual(c, c)])
        self.head = nn.Conv2d(a, 4 * out_maps, 1)

    def forward(self, x: Tensor) -> NetOutput:
        """(B, C, Y, X) float32, sides multiples of 16, to `NetOutput` of (B, M, Y, X) and (B, sum(widths))."""
        skips = self._encode(x)
        x = skips[-1]
        for skip, narrow, stage in reversed(list(zip(skips[:-1], self.narrow, self.decoder, strict=True))):
            x = stage(F.interpolate(narrow(x), scale_factor=2.0, mode="nearest") + skip)
        return NetOutput(F.pixel_shuffle(self.head(x), 2), pooled_style(skips))

    def style(self, x: Tensor) -> Tensor:
        """The style of `forward`, (B, sum(widths)), at about half its time."""
        return pooled_style(self._encode(x))

    def _encode(self, x: Tensor) -> list[Tensor]:
        """Features of the four scales, finest first."""
        check_input(x, self.in_channels, self.stride)
        x = F.pixel_unshuffle(x, 2)
        skips: list[Tensor] = []
        for k, stage in enumerate(self.encoder):
            x = stage(F.max_pool2d(x, 2) if k else x)
            skips.append(x)
        return skips
