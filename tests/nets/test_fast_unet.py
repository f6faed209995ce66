"""FastUNet: how far it looks, how little it computes, and its refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cellweave.core.output import NetOutput
from cellweave.nets import CellposeUNet, FastUNet


def random_net(seed: int = 0, **options: object) -> FastUNet:
    """A narrow network whose batch norms do something."""
    torch.manual_seed(seed)
    net = FastUNet(**{"widths": (6, 5, 7, 9), **options})  # type: ignore[arg-type]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize("shape", [(1, 2, 16, 16), (2, 2, 48, 32), (3, 2, 16, 144)])
def test_maps_are_as_large_as_the_input(shape: tuple[int, ...]) -> None:
    net = random_net()
    output = net(torch.rand(shape))
    assert isinstance(output, NetOutput)
    assert output.maps.shape == (shape[0], 3, *shape[2:])
    assert output.style.shape == (shape[0], sum(net.widths))


@pytest.mark.parametrize(("channels", "maps"), [(1, 1), (3, 5)])
def test_other_numbers_of_channels_and_maps(channels: int, maps: int) -> None:
    assert random_net(in_channels=channels, out_maps=maps)(torch.rand(1, channels, 16, 16)).maps.shape[1] == maps


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_styles_are_unit_vectors(seed: int) -> None:
    torch.manual_seed(seed)
    style = random_net()(torch.randn(3, 2, 32, 32)).style
    torch.testing.assert_close(style.norm(dim=1), torch.ones(3))


def changed_by(net: FastUNet, side: int, where: slice, axis: int) -> Tensor:
    """Which positions along `axis` of the maps change with the input at positions `where` of that axis."""
    torch.manual_seed(1)
    net = net.double()
    image = torch.rand(1, 2, *((side, 16) if axis == 0 else (16, side)), dtype=torch.float64)
    other = image.clone()
    other.movedim(2 + axis, 0)[where] += 1 + torch.rand(1, dtype=torch.float64)
    with torch.no_grad():
        differs = (net(image).maps != net(other).maps).any(dim=1)[0]
    return differs.any(dim=1 - axis)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("phase", [0, 1, 7, 8, 15])
def test_nothing_beyond_the_radius_changes_a_pixel(axis: int, phase: int) -> None:
    """Exactly nothing, in float64; and the radius is no wild guess."""
    side, middle = 640, 320 + phase
    differs = changed_by(random_net(), side, slice(middle, middle + 1), axis)
    reached = (torch.nonzero(differs)[:, 0] - middle).abs().max()
    assert reached <= FastUNet.radius
    assert reached >= FastUNet.radius / 2


@pytest.mark.parametrize("phase", range(16))
def test_radius_holds_where_every_path_is_open(phase: int) -> None:
    """With positive weights and one huge pixel no ReLU and no maximum stops anything on its way."""
    net = random_net().double()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.1)
    image = torch.zeros(1, 2, 640, 16, dtype=torch.float64)
    other = image.clone()
    other[:, :, 320 + phase] = 1e6
    with torch.no_grad():
        differs = (net(image).maps != net(other).maps).any(dim=1)[0].any(dim=1)
    reached = (torch.nonzero(differs)[:, 0] - 320 - phase).abs().max()
    assert 100 < reached <= FastUNet.radius


@settings(max_examples=8)
@given(st.integers(0, 40), st.integers(0, 1000))
def test_far_input_never_matters(start: int, seed: int) -> None:
    net = random_net(seed)
    differs = changed_by(net, 16 * 32, slice(0, start), 0)
    assert not differs[start + FastUNet.radius :].any()


@pytest.mark.parametrize(("side", "shift"), [(512, 16), (512, 48)])
def test_stride_is_what_moves_maps_with_the_image(side: int, shift: int) -> None:
    """Moving the input by a multiple of the stride moves the maps, away from the borders."""
    net = random_net().double()
    torch.manual_seed(2)
    image = torch.rand(1, 2, side, 16, dtype=torch.float64)
    edge = FastUNet.radius
    with torch.no_grad():
        still, moved = net(image).maps, net(image.roll(shift, dims=2)).maps
    torch.testing.assert_close(moved[:, :, edge + shift : side - edge], still[:, :, edge : side - edge - shift])


def multiply_adds(net: nn.Module, side: int) -> float:
    """Multiply-adds of convolutions and linear layers for each pixel of the input."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        net.eval()(torch.rand(1, 2, side, side))
    for hook in hooks:
        hook.remove()
    return total / side**2


def test_multiply_adds_are_counted_right() -> None:
    assert multiply_adds(nn.Conv2d(2, 5, 3, padding=1), 8) == 2 * 5 * 9


def test_at_least_five_times_fewer_operations_than_cellpose() -> None:
    assert multiply_adds(CellposeUNet(), 64) / multiply_adds(FastUNet(), 64) >= 5


def test_no_convolution_runs_on_the_full_grid() -> None:
    sizes: list[int] = []
    net = random_net()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, output: sizes.append(max(output.shape[2:])))
    net(torch.rand(1, 2, 32, 32))
    assert max(sizes) == 16


def test_every_weight_takes_part_in_training() -> None:
    net = random_net().train()
    maps = net(torch.rand(2, 2, 32, 32)).maps
    maps.pow(2).mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
