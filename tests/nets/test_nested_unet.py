"""NestedUNet: its size, which node takes what, its attention, and its refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cellweave.core.errors import MissingExtraError, ModelError
from cellweave.core.output import NetOutput
from cellweave.models import Segmenter
from cellweave.models.imagenet_weights import load_imagenet_encoder
from cellweave.nets import NETS, FastUNet, NestedUNet
from cellweave.nets.nested_unet import Attention, Encoder, Inverted, Plan, SqueezeExcite
from cellweave.predict import predict_maps
from cellweave.predict.torchvision_ops import load_torchvision
from cellweave.representations import Heatmap

NARROW = (4, 6, 8, 10, 12)


def narrow(seed: int = 0, **options: object) -> NestedUNet:
    torch.manual_seed(seed)
    return NestedUNet(**{"widths": NARROW, **options}).eval()  # type: ignore[arg-type]


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def multiply_adds(net: nn.Module, channels: int, side: int) -> float:
    """Of convolutions, for each pixel of the input."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += output.numel() * module.weight[0].numel()

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        net.eval()(torch.rand(1, channels, side, side))
    return total / side**2


# --- the network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 2, 32, 32), (2, 2, 64, 96), (3, 2, 32, 160)])
def test_shapes_of_outputs(shape: tuple[int, ...]) -> None:
    net = narrow()
    with torch.no_grad():
        output = net(torch.rand(shape))
    assert isinstance(output, NetOutput)
    assert output.maps.shape == (shape[0], 1, *shape[2:])
    assert output.style.shape == (shape[0], sum(NARROW))
    assert output.boxes is None


@pytest.mark.parametrize(("channels", "maps"), [(1, 1), (3, 5)])
def test_other_numbers_of_channels_and_maps(channels: int, maps: int) -> None:
    net = narrow(in_channels=channels, out_maps=maps)
    assert net(torch.rand(1, channels, 32, 32)).maps.shape[1] == maps


def test_styles_are_unit_vectors() -> None:
    with torch.no_grad():
        style = narrow().style(torch.randn(9, 2, 32, 32))
    torch.testing.assert_close(style.norm(dim=1), torch.ones(9))


def test_style_alone_is_that_of_forward() -> None:
    net, x = narrow(), torch.rand(2, 2, 32, 64)
    ran: list[nn.Module] = []
    for part in [*net.nodes.values(), net.head]:
        part.register_forward_hook(lambda module, *_: ran.append(module))
    with torch.no_grad():
        style = net.style(x)
        assert not ran
        assert torch.equal(style, net(x).style)


def test_settings_build_it_again() -> None:
    net = narrow(out_maps=4)
    again = NETS["NestedUNet"](net.in_channels, net.out_maps, net.widths)  # type: ignore[arg-type]
    again.load_state_dict(net.state_dict())
    assert (net.stride, net.radius) == (32, None)


def test_encoder_is_as_large_as_published() -> None:
    """MobileNetV3-Large has 2,971,952 parameters before its classifier, 155,520 of them in its last convolution.

    It does 219 M multiply-adds at 224 x 224 (Howard et al. 2019, Table 3), 217 M by torchvision's count: 2.5 M in the
    classifier, 7.6 M in that convolution.
    """
    net = NestedUNet(3)
    assert parameters(net.encoder) == 2_971_952 - 155_520
    assert multiply_adds(net.encoder, 3, 224) * 224**2 == pytest.approx(217e6 - 2.5e6 - 7.6e6, rel=0.01)
    assert [f.shape[1:] for f in net.encoder(torch.rand(1, 3, 64, 64))] == [
        (width, side, side) for width, side in zip((16, 24, 40, 112, 160), (32, 16, 8, 4, 2), strict=True)
    ]


def test_encoder_is_that_of_torchvision() -> None:
    """With its weights, random ones here, both give the same features."""
    try:
        torchvision = load_torchvision()
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v3_large(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    net, x = NestedUNet(3).eval(), torch.rand(1, 3, 64, 96)
    unused = net.encoder.load_state_dict(theirs.state_dict(), strict=False)
    assert not unused.missing_keys
    assert {name.rpartition(".")[0] for name in unused.unexpected_keys} == {
        *("features.16.0", "features.16.1", "classifier.0", "classifier.3"),
    }
    with torch.no_grad():
        features, last = net.encoder(x), x
        for k, part in enumerate(theirs.features[:16]):
            last = part(last)
            if k in net.encoder.ends:
                torch.testing.assert_close(features[net.encoder.ends.index(k)], last)


def test_names_are_those_of_imagenets_weights() -> None:
    shapes = {name: tuple(value.shape) for name, value in NestedUNet(3).encoder.state_dict().items()}
    assert shapes["features.0.0.weight"] == (16, 3, 3, 3)
    assert shapes["features.0.1.running_mean"] == (16,)
    assert shapes["features.1.block.0.0.weight"] == (16, 1, 3, 3)
    assert shapes["features.4.block.2.fc1.weight"] == (24, 72, 1, 1)
    assert shapes["features.9.block.1.0.weight"] == (184, 1, 3, 3)
    assert shapes["features.13.block.1.0.weight"] == (672, 1, 5, 5)
    assert shapes["features.15.block.3.1.weight"] == (160,)


@pytest.mark.parametrize("channels", [2, 3])
def test_the_encoder_may_start_from_imagenet(tmp_path: Path, channels: int) -> None:
    """A gray picture in the first plane is seen as one in three equal colours."""
    theirs = {name: torch.rand_like(value.float()) for name, value in NestedUNet(3).encoder.state_dict().items()}
    torch.save(theirs | {"features.16.0.weight": torch.rand(9), "classifier.0.bias": torch.rand(2)}, tmp_path / "x.pth")
    net, peer = NestedUNet(channels).eval(), Encoder(3, (16, 24, 40, 112, 160)).eval()
    peer.load_state_dict(theirs)
    load_imagenet_encoder(net, tmp_path / "x.pth")
    gray = torch.rand(1, 1, 32, 32)
    x = gray.repeat(1, 3, 1, 1) if channels == 3 else torch.cat([gray, torch.rand_like(gray)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(net.encoder(x)[0], peer(gray.repeat(1, 3, 1, 1))[0])
    with pytest.raises(ModelError, match=r"x\.pth does not fit this net.*widths \(16, 24"):
        load_imagenet_encoder(narrow(), tmp_path / "x.pth")
    torch.save({"conv1.weight": torch.rand(64, 3, 7, 7)}, tmp_path / "resnet.pth")
    with pytest.raises(ModelError, match="no mobilenet_v3_large"):
        load_imagenet_encoder(net, tmp_path / "resnet.pth")


def test_fewer_operations_than_the_fast_net() -> None:
    assert multiply_adds(NestedUNet(3), 3, 64) < multiply_adds(FastUNet(3, 1), 3, 64)


def test_every_weight_takes_part_in_training() -> None:
    torch.manual_seed(0)
    net = NestedUNet(3, widths=(16, 16, 16, 16, 16)).train()
    net(torch.rand(4, 3, 64, 64)).maps.pow(2).mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


# --- its parts ------------------------------------------------------------------------------------------------


def test_nodes_take_all_before_them_and_the_one_below() -> None:
    """Which nodes feel a change of which others: those to the right in the same row and above on the diagonal."""
    net, x = narrow(), torch.rand(1, 2, 64, 64)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    features: list[Tensor] = []
    net.encoder.register_forward_hook(lambda module, i, o: features.extend(o))
    for name, node in net.nodes.items():
        node.register_forward_hook(lambda module, i, o, name=name: inputs.update({name: i[0]}))
        node.register_forward_hook(lambda module, i, o, name=name: outputs.update({name: o}))
    with torch.no_grad():
        net(x)
    assert sorted(inputs) == sorted(f"{i}_{j}" for i in range(4) for j in range(1, 5 - i))
    known = outputs | {f"{i}_0": feature for i, feature in enumerate(features)}
    for name, given_ in inputs.items():
        i, j = map(int, name.split("_"))
        below = known[f"{i + 1}_{j - 1}"].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        assert torch.equal(given_, torch.cat([*(known[f"{i}_{k}"] for k in range(j)), below], dim=1))


def test_attention_is_the_sum_of_both_kinds() -> None:
    torch.manual_seed(0)
    part, x = Attention(6), torch.randn(2, 6, 5, 7)
    with torch.no_grad():
        mean = x.mean(dim=(2, 3))
        squeezed = torch.relu(mean @ part.channel.fc1.weight[:, :, 0, 0].T + part.channel.fc1.bias)
        channels = torch.sigmoid(squeezed @ part.channel.fc2.weight[:, :, 0, 0].T + part.channel.fc2.bias)
        assert squeezed.shape == (2, 3)
        places = torch.sigmoid((x * part.place.weight[0][None]).sum(dim=1) + part.place.bias)
        slow = x * channels[:, :, None, None] + x * places[:, None]
        torch.testing.assert_close(part(x), slow)


def test_squeeze_and_excite_can_open_and_close() -> None:
    part, x = SqueezeExcite(8, 2, nn.Hardsigmoid()), torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        part.fc2.weight.zero_()
        for bias, expected in ((3.0, x), (-3.0, 0 * x), (0.0, x / 2)):
            part.fc2.bias.fill_(bias)
            torch.testing.assert_close(part(x), expected)


@pytest.mark.parametrize(("stride", "out"), [(1, 8), (2, 8), (1, 16)])
def test_inverted_blocks_have_a_shortcut_where_shapes_stay(stride: int, out: int) -> None:
    block, x = Inverted(8, out, Plan(0, 5, 3, squeeze=True, hard=True, stride=stride)).eval(), torch.randn(1, 8, 12, 12)
    with torch.no_grad():
        block.block[-1][0].weight.zero_()
        y = block(x)
    assert y.shape == (1, out, 12 // stride, 12 // stride)
    assert torch.equal(y, x) if (stride, out) == (1, 8) else not y.any()


# --- in use ---------------------------------------------------------------------------------------------------


def test_any_image_can_be_counted_and_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Sides that are no multiples of the stride, tiles, a round trip through a model folder."""
    model = Segmenter(narrow(), Heatmap(), 0.0)
    image = torch.rand(75, 50, generator=torch.Generator().manual_seed(0)).numpy()
    maps = predict_maps(image, model)
    assert maps.shape == (1, 75, 50)
    assert maps.min() > 0
    assert predict_maps(image, model, tile=64).shape == maps.shape
    model.save(tmp_path / "model")
    assert (predict_maps(image, Segmenter.load(tmp_path / "model")) == maps).all()


def test_it_learns() -> None:
    """A few steps on one picture of dots."""
    torch.manual_seed(0)
    heatmap, net = Heatmap(sigma=3.0), NestedUNet(1, 1, (16, 16, 16, 16, 16)).train()
    target = torch.zeros(2, 1, 64, 64)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    for y, x in ((12, 20), (40, 14), (30, 50), (54, 48)):
        target += torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 18)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = heatmap.loss(net(target), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    best = heatmap.loss(NetOutput(torch.logit(target / 8, 1e-9) + 4, target), target).item()
    assert best < losses[-1]
    assert losses[-1] - best < 0.5 * (losses[0] - best)
