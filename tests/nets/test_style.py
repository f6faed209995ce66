"""The style alone is the style of the whole net."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cellweave.core.errors import InputError
from cellweave.nets import CellposeUNet, FastUNet

NETS = [FastUNet(widths=(4, 6, 8, 8)).eval(), CellposeUNet(widths=(4, 6, 8)).eval()]


@pytest.mark.parametrize("net", NETS)
def test_style_is_that_of_forward(net: nn.Module) -> None:
    x = torch.rand(2, 2, 32, 48)
    with torch.no_grad():
        assert torch.equal(net.style(x), net(x).style)  # type: ignore[operator]


@pytest.mark.parametrize("net", NETS)
def test_style_leaves_the_way_up_out(net: nn.Module) -> None:
    ran: list[nn.Module] = []
    up = net.decoder if isinstance(net, FastUNet) else net.up
    hooks = [part.register_forward_hook(lambda module, *_: ran.append(module)) for part in [*up, net.head]]  # type: ignore[operator,union-attr]
    try:
        with torch.no_grad():
            net.style(torch.rand(1, 2, 32, 32))  # type: ignore[operator]
        assert not ran
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("net", NETS)
def test_style_refuses_what_forward_refuses(net: nn.Module) -> None:
    for shape in ((1, 3, 32, 32), (1, 2, 33, 32), (2, 32, 32)):
        with pytest.raises(InputError):
            net.style(torch.rand(shape))  # type: ignore[operator]
