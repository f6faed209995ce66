"""What all nets do alike: they refuse inputs of a wrong shape with the remedy, and give styles of unit norm."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from cellweave.core.errors import InputError
from cellweave.nets import AnchorUNet, CellposeUNet, FastUNet, NestedUNet
from cellweave.nets.features import pooled_style

SMALL = {
    "AnchorUNet": partial(AnchorUNet, widths=(4, 4, 4, 4)),
    "CellposeUNet": partial(CellposeUNet, widths=(2, 4, 4, 4)),
    "FastUNet": partial(FastUNet, widths=(4, 4, 4, 4)),
    "NestedUNet": NestedUNet,
}


@pytest.fixture(scope="module", params=SMALL)
def net(request: pytest.FixtureRequest) -> nn.Module:
    return SMALL[request.param]().eval()  # type: ignore[operator]


def test_wrong_channels_and_dimensions_are_refused_with_the_remedy(net: FastUNet) -> None:
    n, side = net.in_channels, net.stride
    for call in (net, net.style):
        for shape in ((1, n + 1, side, side), (1, n - 1, side, side), (n, side, side), (side, side)):
            with pytest.raises(InputError, match=rf"takes \(B, {n}, Y, X\)") as caught:
                call(torch.zeros(shape))
            assert str(shape) in str(caught.value)


def test_sides_that_are_no_multiples_are_refused_with_the_remedy(net: FastUNet) -> None:
    n, side = net.in_channels, net.stride
    for call in (net, net.style):
        for height, width in ((side, side + 1), (3 * side // 2, side), (0, side), (side, 0)):
            need = f"{max(1, -(-height // side)) * side} x {max(1, -(-width // side)) * side}"
            said = f"tile is {height} x {width}; this network needs multiples of {side}; pad it to {need}"
            with pytest.raises(InputError, match=said):
                call(torch.zeros(1, n, height, width))


def test_a_style_is_the_means_of_all_scales_and_of_unit_norm() -> None:
    features = [torch.full((2, 3, 8, 6), 2.0), torch.arange(24.0).reshape(2, 1, 4, 3)]
    style = pooled_style(features)
    expected = torch.tensor([[2.0, 2, 2, 5.5], [2, 2, 2, 17.5]])
    torch.testing.assert_close(style, expected / expected.norm(dim=1, keepdim=True))
