"""CellposeUNet: the paper's equations, what its output may depend on, and its refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cellweave.nets.cellpose_unet import CellposeUNet, Scale


def random_net(**options: object) -> CellposeUNet:
    """A small network whose batch norms do something."""
    torch.manual_seed(0)
    net = CellposeUNet(**{"widths": (4, 6, 8, 10), **options})  # type: ignore[arg-type]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return net.eval()


def close(a: Tensor, b: Tensor) -> None:
    """Equal up to the order in which float32 numbers are added."""
    torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=0)


def unit(weights: dict[str, Tensor], name: str, x: Tensor, *, relu: bool = True) -> Tensor:
    """Normalise by hand, ReLU, convolve."""
    w = {k.removeprefix(name + "."): v for k, v in weights.items() if k.startswith(name + ".")}
    mean, var, scale, shift = (w[f"norm.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias"))
    x = (x - mean) / torch.sqrt(var + 1e-5) * scale + shift
    return F.conv2d(x.clamp(min=0) if relu else x, w["conv.weight"], w["conv.bias"], padding="same")


def equations(net: CellposeUNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """The network written out from equations (1) and (2) of the challenge paper."""
    w = net.state_dict()
    levels = range(len(net.widths))
    down: list[Tensor] = []
    for t in levels:
        f = [lambda a, t=t, k=k: unit(w, f"down.{t}.convs.{k}", a) for k in range(4)]
        x = x if t == 0 else F.max_pool2d(down[-1], 2)
        star = f[1](f[0](x)) + unit(w, f"down.{t}.project", x, relu=False)
        down.append(f[3](f[2](star)) + star)
    pooled = down[-1].mean((2, 3))
    style = pooled / pooled.norm(dim=1, keepdim=True)
    z = down[-1]
    for t in reversed(levels):
        s = [F.linear(style, w[f"up.{t}.styles.{k}.weight"], w[f"up.{t}.styles.{k}.bias"]) for k in range(3)]
        f = [lambda a, t=t, k=k: unit(w, f"up.{t}.convs.{k}", a) for k in range(4)]
        g = [lambda a, f=f, s=s, k=k: f[k + 1](a + s[k][:, :, None, None]) for k in range(3)]
        z = z if t == levels[-1] else z.repeat_interleave(2, 2).repeat_interleave(2, 3)
        star = g[0](f[0](z) + down[t]) + unit(w, f"up.{t}.project", z, relu=False)
        z = g[2](g[1](star)) + star
    return unit(w, "head", z), style


@pytest.mark.parametrize("options", [{}, {"in_channels": 1, "out_maps": 4}, {"widths": (5, 3)}])
def test_network_is_the_papers_equations(options: dict[str, object]) -> None:
    net = random_net(**options)
    x = torch.rand(2, net.in_channels, 24, 32)
    with torch.no_grad():
        got, (maps, style) = net(x), equations(net, x)
    close(got.maps, maps)
    close(got.style, style)


def test_default_network_has_the_papers_size() -> None:
    net = CellposeUNet()
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(6.6e6, rel=0.01)  # Byun et al., Table 2
    assert (net.stride, net.radius, len(net.down), len(net.up)) == (8, None, 4, 4)


@settings(max_examples=10)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
def test_maps_are_as_large_as_the_tile_and_styles_have_unit_length(batch: int, rows: int, columns: int) -> None:
    with torch.no_grad():
        maps, style, _ = random_net()(torch.rand(batch, 2, 8 * rows, 8 * columns))
    assert maps.shape == (batch, 3, 8 * rows, 8 * columns)
    assert maps.dtype == style.dtype == torch.float32
    torch.testing.assert_close(style.norm(dim=1), torch.ones(batch))


def test_a_tile_does_not_depend_on_the_others_of_its_batch() -> None:
    net, x = random_net(), torch.rand(3, 2, 16, 24)
    with torch.no_grad():
        together, alone = net(x), [net(x[k : k + 1]) for k in range(3)]
    close(together.maps, torch.cat([one.maps for one in alone]))
    close(together.style, torch.cat([one.style for one in alone]))


def test_input_is_not_changed() -> None:
    x = torch.rand(1, 2, 16, 16) - 0.5
    before = x.clone()
    with torch.no_grad():
        random_net()(x)
    assert torch.equal(x, before)


def test_memory_layout_changes_nothing() -> None:
    net, x = random_net(), torch.rand(2, 2, 32, 24)
    with torch.no_grad():
        plain = net(x)
        last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    close(last.maps, plain.maps)


def test_bfloat16_autocast_stays_close_and_returns_float32() -> None:
    net, x = random_net(), torch.rand(1, 2, 32, 32)
    with torch.no_grad():
        exact = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(x)
    assert rough.maps.dtype == rough.style.dtype == torch.float32
    error = (rough.maps - exact.maps).pow(2).mean().sqrt() / exact.maps.std()
    assert error < 0.05
    assert (rough.style - exact.style).abs().max() < 0.02


def test_every_weight_learns() -> None:
    net = random_net().train()
    maps, style, _ = net(torch.rand(2, 2, 16, 16))
    (maps.pow(2).mean() + style.sum()).backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias in front of a batch norm in training mode cancels, up to rounding; all others must move.
    assert [name for name in still if not name.endswith("conv.bias")] == []


def test_dead_features_give_a_finite_style() -> None:
    net = random_net()
    for p in net.down.parameters():
        nn.init.zeros_(p)
    with torch.no_grad():
        maps, style, _ = net(torch.zeros(1, 2, 8, 8))
    assert torch.isfinite(maps).all()
    assert torch.equal(style, torch.zeros_like(style))


def test_new_weights_are_lecun_uniform() -> None:
    torch.manual_seed(1)
    scale = CellposeUNet().down[2]
    assert isinstance(scale, Scale)
    weight = scale.convs[1].conv.weight
    limit = (3 / (128 * 9)) ** 0.5
    assert 0.99 * limit < weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx((1 / (128 * 9)) ** 0.5, rel=0.02)
