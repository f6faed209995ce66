"""The residual U-Net of Cellpose, versions 1 to 3.

Sources: Stringer et al., "Cellpose: a generalist algorithm for cellular segmentation", section "Deep neural
network"; Byun et al., "Cell Segmentation in Multi-modality High-Resolution Microscopy Images with
Cellpose", equations (1) and (2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cellweave.core.output import NetOutput
from cellweave.nets.features import check_input, pooled_style


class NormConv(nn.Sequential):
    """Batch normalisation, ReLU (unless `relu` is False), convolution that keeps the size."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int = 3, relu: bool = True) -> None:
        super().__init__()
        self.add_module("norm", nn.BatchNorm2d(in_channels, momentum=0.05))
        if relu:
            self.add_module("relu", nn.ReLU(inplace=True))
        self.add_module("conv", nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2))


class Scale(nn.Module):
    """The two residual blocks of one scale, on the way down and on the way up.

    With F a `NormConv` of 3 x 3 and P one of 1 x 1 without ReLU, the way down is equation (1):

    | x* = F(F(x')) + P(x')
    | x  = F(F(x*)) + x*

    The way up is equation (2), where G(s, a) = F(a + W s) adds a linear projection of the style vector s
    to every pixel before the convolution, and x is the result of the same scale on the way down:

    | z* = G(s, F(z') + x) + P(z')
    | z  = G(s, G(s, z*)) + z*

    Each F, G and W has weights of its own. The paper lists convolution, normalisation, ReLU as the order
    within F; Cellpose and this class put the convolution last.

    Parameters
    ----------
    in_channels, out_channels
        Width of the input, and of every convolution's output.
    style_channels
        Length of the style vector; 0 on the way down.
    """

    def __init__(self, in_channels: int, out_channels: int, *, style_channels: int = 0) -> None:
        super().__init__()
        self.project = NormConv(in_channels, out_channels, kernel=1, relu=False)
        self.convs = nn.ModuleList(NormConv(out_channels if k else in_channels, out_channels) for k in range(4))
        self.styles = nn.ModuleList(nn.Linear(style_channels, out_channels) for _ in range(3) if style_channels)

    def forward(self, x: Tensor, skip: Tensor | None = None, style: Tensor | None = None) -> Tensor:
        def styled(k: int, a: Tensor) -> Tensor:
            if style is not None:
                a = a + self.styles[k - 1](style)[:, :, None, None]
            result: Tensor = self.convs[k](a)
            return result

        first = self.convs[0](x)
        middle: Tensor = self.project(x) + styled(1, first if skip is None else first + skip)
        return middle + styled(3, styled(2, middle))


class CellposeUNet(nn.Module):
    """Residual U-Net with style vector; computes the same as Cellpose's network with the same weights.

    Going down, 2 x 2 maximum pooling comes before every scale but the first; going up, nearest-neighbour
    doubling comes before every scale but the deepest, which takes the deepest result of the way down both
    as its input and as its skip. The style vector is the mean of the deepest maps over the tile, scaled to
    unit length. The head is a 1 x 1 `NormConv`.

    New networks start from LeCun's uniform initialisation (Byun et al., Table 2): weights within
    +-sqrt(3 / fan-in).

    Parameters
    ----------
    in_channels
        Channels of the image; 2 (to segment, nucleus or zeros) for the official models.
    out_maps
        Maps to predict; 3 are flow down (dy), flow right (dx), both times 5, and logit of cell probability.
    widths
        Feature maps of each scale, finest first. The style vector is as long as the last is wide.
    """

    stride: int = 8
    """Tile sides must be multiples of this; 2 ** (number of scales - 1)."""
    radius: int | None = None
    """Pixels around an output that can change it: the style vector brings in the whole tile, so no bound."""
    tile = 224
    """Side in px of the tiles that it is run on: what Cellpose trains and runs on."""

    def __init__(self, in_channels: int = 2, out_maps: int = 3, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_maps = out_maps
        self.widths = tuple(widths)
        self.stride = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList(Scale(a, b) for a, b in zip((in_channels, *widths), widths, strict=False))
        self.up = nn.ModuleList(
            Scale(a, b, style_channels=widths[-1]) for a, b in zip((*widths[1:], widths[-1]), widths, strict=True)
        )
        self.head = NormConv(widths[0], out_maps, kernel=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> NetOutput:
        """Predict maps and style.

        Parameters
        ----------
        x
            (B, C, Y, X) floating point, normalised so that most pixels are in 0..1; Y and X multiples of
            `stride`.

        Returns
        -------
        NetOutput
            maps (B, out_maps, Y, X) and style (B, widths[-1]), both float32.

        Raises
        ------
        InputError
            For another number of channels, or sides that are no multiples of `stride`.
        """
        skips = self._encode(x)
        x, style = skips[-1], pooled_style(skips[-1:])
        for scale, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = scale(x if skip is skips[-1] else F.interpolate(x, scale_factor=2.0), skip, style)
        return NetOutput(self.head(x).float(), style)

    def style(self, x: Tensor) -> Tensor:
        """The style of `forward`, (B, widths[-1]) float32, at about half its time."""
        return pooled_style(self._encode(x)[-1:])

    def _encode(self, x: Tensor) -> list[Tensor]:
        """Features of every scale on the way down, finest first."""
        check_input(x, self.in_channels, self.stride)
        skips: list[Tensor] = []
        for scale in self.down:
            x = scale(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        return skips
