"""AnchorUNet: its size, its outputs, its start, and the weights of ImageNet in its encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from cellweave.core.errors import ModelError
from cellweave.models.imagenet_weights import load_imagenet_encoder
from cellweave.nets import NETS, AnchorUNet
from cellweave.nets.anchor_unet import PRIOR, CrossStage, PyramidPool

NARROW = (4, 6, 8, 10)
WIDE = (64, 128, 256, 512)


def narrow(seed: int = 0, **options: object) -> AnchorUNet:
    torch.manual_seed(seed)
    return AnchorUNet(**{"widths": NARROW, **options}).eval()  # type: ignore[arg-type]


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# --- the network ----------------------------------------------------------------------------------------------


def test_parameters_and_operations_are_those_of_the_paper() -> None:
    """12.61 M parameters (Table 2); 41.9 G operations at 640 x 640, two for each multiply-add."""
    net = AnchorUNet().eval()
    assert parameters(net) == 12_610_004
    assert parameters(AnchorUNet(out_maps=4, boxes=False)) == pytest.approx(12.61e6, rel=0.01)
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += output.numel() * module.weight[0].numel()

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        net(torch.rand(1, 3, 64, 64))
    assert 2 * total * (640 / 64) ** 2 == pytest.approx(41.9e9, rel=0.03)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 3, 64, 96)])
@pytest.mark.parametrize("boxes", [True, False])
def test_shapes_of_outputs(shape: tuple[int, ...], boxes: bool) -> None:
    net = narrow(boxes=boxes)
    with torch.no_grad():
        output = net(torch.rand(shape))
    assert output.maps.shape == (shape[0], 2, *shape[2:])
    assert output.style.shape == (shape[0], sum(NARROW))
    torch.testing.assert_close(output.style.norm(dim=1), torch.ones(shape[0]))
    if boxes:
        assert output.boxes.shape == (shape[0], 3, 6, shape[2] // 8, shape[3] // 8)
    else:
        assert output.boxes is None


@pytest.mark.parametrize(("channels", "maps"), [(1, 1), (2, 5)])
def test_other_numbers_of_channels_and_maps(channels: int, maps: int) -> None:
    net = narrow(in_channels=channels, out_maps=maps)
    assert net(torch.rand(1, channels, 32, 32)).maps.shape[1] == maps


def test_settings_build_it_again() -> None:
    net = narrow(boxes=False, out_maps=4)
    again = NETS["AnchorUNet"](net.in_channels, net.out_maps, net.widths, boxes=net.boxes)  # type: ignore[call-arg]
    again.load_state_dict(net.state_dict())
    assert (net.stride, net.radius) == (32, None)


def test_style_alone_is_that_of_forward() -> None:
    net, x = narrow(), torch.rand(2, 3, 32, 64)
    ran: list[nn.Module] = []
    for part in [net.pool, *net.up, net.head]:
        part.register_forward_hook(lambda module, *_: ran.append(module))
    with torch.no_grad():
        style = net.style(x)
        assert not ran
        assert torch.equal(style, net(x).style)


def test_the_head_commutes_with_the_enlargement() -> None:
    """What the paper's order of both would give: the head on features in full size."""
    net, x = narrow(), torch.rand(1, 3, 64, 64)
    features: list[Tensor] = []
    net.up[-1].register_forward_hook(lambda module, inputs, output: features.append(output))
    with torch.no_grad():
        maps = net(x).maps
        full = F.interpolate(features[0], scale_factor=2.0, mode="bilinear", align_corners=True)
        torch.testing.assert_close(maps, net.head(full))


@pytest.mark.parametrize("boxes", [True, False])
def test_every_weight_takes_part_in_training(boxes: bool) -> None:
    net = narrow(boxes=boxes).train()
    output = net(torch.rand(2, 3, 64, 64))
    loss = output.maps.pow(2).mean() + (output.boxes.pow(2).mean() if boxes else 0)
    loss.backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_detection_reaches_no_further_than_its_scale() -> None:
    """The boxes do not depend on the two last steps up."""
    net, x = narrow(), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = net(x)
        for part in net.up[2:]:
            for parameter in part.parameters():
                parameter.zero_()
        after = net(x)
    assert torch.equal(before.boxes, after.boxes)
    assert not torch.equal(before.maps, after.maps)


def test_fast_pyramid_is_the_pyramid() -> None:
    """Pooling with 5, three times over, is pooling with 5, 9 and 13."""
    torch.manual_seed(0)
    pool, x = PyramidPool(8).eval(), torch.randn(2, 8, 17, 20)
    with torch.no_grad():
        y = pool.narrow(x)
        slow = pool.widen(torch.cat([y, *(F.max_pool2d(y, k, 1, k // 2) for k in (5, 9, 13))], dim=1))
        assert torch.equal(pool(x), slow)


def test_bottleneck_has_no_shortcut() -> None:
    """With its last convolution at zero, nothing of the deep path is left but the constant of its norm."""
    torch.manual_seed(0)
    stage, x = CrossStage(6, 8).eval(), torch.randn(2, 6, 9, 9)
    with torch.no_grad():
        stage.deep[-1].conv.weight.zero_()
        assert not stage.deep(x).any()


# --- its start ------------------------------------------------------------------------------------------------


def test_weights_start_from_he_normal() -> None:
    torch.manual_seed(0)
    for name, module in AnchorUNet(widths=(64, 32, 32, 32)).named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx((2 / module.weight[0].numel()) ** 0.5, rel=0.2), name


def test_objectness_starts_from_the_prior() -> None:
    net = narrow(widths=(16, 16, 16, 16))
    assert net.box_head is not None
    assert net.box_head.bias is not None
    bias = net.box_head.bias.detach().view(3, 6)
    torch.testing.assert_close(torch.sigmoid(bias[:, 4]), torch.full((3,), PRIOR))
    assert not bias[:, [0, 1, 2, 3, 5]].any()
    with torch.no_grad():
        objectness = torch.sigmoid(net.train()(torch.rand(4, 3, 96, 96)).boxes[:, :, 4])
    assert 0.002 < objectness.mean() < 0.05


# --- refusals -------------------------------------------------------------------------------------------------


# --- ImageNet -------------------------------------------------------------------------------------------------


class PlainBlock(nn.Module):
    """A basic block as ResNet's authors describe it, with the names that torchvision gives."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class PlainResNet(nn.Module):
    """ResNet-18 (or 34, with other `depths`) with ReLU and a classifier."""

    def __init__(self, widths: tuple[int, ...] = WIDE, depths: tuple[int, ...] = (2, 2, 2, 2)) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0])
        for k, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = [
                PlainBlock(width if j else widths[max(k - 1, 0)], width, 2 if k and not j else 1) for j in range(depth)
            ]
            setattr(self, f"layer{k + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(widths[-1], 1000)

    def features(self, x: Tensor) -> list[Tensor]:
        found = [F.relu(self.bn1(self.conv1(x)))]
        x = F.max_pool2d(found[0], 3, 2, 1)
        for k in range(1, 5):
            x = getattr(self, f"layer{k}")(x)
            found.append(x)
        return found


def plain(seed: int = 1, **options: object) -> PlainResNet:
    """With batch norms that do something."""
    torch.manual_seed(seed)
    net = PlainResNet(**options)  # type: ignore[arg-type]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return net.eval()


def with_relu(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.SiLU):
            setattr(module, name, nn.ReLU())
        with_relu(child)


@pytest.mark.parametrize(("ending", "widths"), [(".pth", WIDE), (".safetensors", NARROW), ("-legacy.pth", NARROW)])
def test_names_of_imagenet_weights_map_right(tmp_path: Path, ending: str, widths: tuple[int, ...]) -> None:
    """With ReLU in place of SiLU the encoder computes what a plain ResNet-18 with the same weights does."""
    peer, path = plain(widths=widths), tmp_path / f"resnet18{ending}"
    state = peer.state_dict()
    if ending == ".safetensors":
        save_file(state, path)
    elif ending == ".pth":
        torch.save(state, path)
    else:  # as the file that the paper used: the old format, without counters
        state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        torch.save(state, path, _use_new_zipfile_serialization=False)
    net = narrow(widths=widths)
    rest = {name: value.clone() for name, value in net.state_dict().items() if not name.startswith("encoder.")}
    load_imagenet_encoder(net, path)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in rest.items())
    with_relu(net.encoder)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(net.encoder(x), peer.features(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_encoder_has_silu_where_resnet_has_relu() -> None:
    net = narrow()
    assert not any(isinstance(module, nn.ReLU) for module in net.modules())
    with torch.no_grad():
        assert all((features < 0).any() for features in net.encoder(torch.randn(1, 3, 64, 64)))


def wrong_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no ResNet-18, and what the error must say."""
    files = {
        "missing.pth": "cannot read.*check the path",
        "missing.safetensors": "cannot read.*check the path",
        "text.pth": "damaged",
        "text.safetensors": "damaged",
        "empty.pth": "damaged",
        "cut.pth": "damaged",
        "module.pth": r"more than a state dict.*nothing in it was run.*state_dict\(\)",
        "list.pth": "something else than a state dict",
        "checkpoint.pth": "something else than a state dict",
        "resnet34.pth": r"no resnet18.*unknown layer1\.2.*more",
        "headless.pth": r"lacks layer4\.0.* and 12 more",
    }
    state = plain(widths=NARROW).state_dict()
    (folder / "text.pth").write_text("weights, honestly")
    (folder / "text.safetensors").write_text("weights, honestly")
    (folder / "empty.pth").write_bytes(b"")
    torch.save(state, folder / "cut.pth")
    (folder / "cut.pth").write_bytes((folder / "cut.pth").read_bytes()[:2000])
    torch.save(nn.Linear(2, 2), folder / "module.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save({"state_dict": state, "epoch": 3}, folder / "checkpoint.pth")
    torch.save(plain(widths=NARROW, depths=(3, 4, 6, 3)).state_dict(), folder / "resnet34.pth")
    torch.save({k: v for k, v in state.items() if not k.startswith("layer4.0")}, folder / "headless.pth")
    return {name: (folder / name, message) for name, message in files.items()}


def test_wrong_files_are_refused_and_change_nothing(tmp_path: Path) -> None:
    net = narrow()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for name, (path, message) in wrong_files(tmp_path).items():
        with pytest.raises(ModelError, match=f"(?s){name}.*{message}|{message.split('.*')[0]}.*{name}"):
            load_imagenet_encoder(net, path)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("options", [{"widths": (6, 6, 8, 10)}, {"in_channels": 1}])
def test_weights_of_another_size_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    torch.save(plain(widths=NARROW).state_dict(), tmp_path / "resnet18.pth")
    net = narrow(**options)
    with pytest.raises(ModelError, match=r"resnet18\.pth does not fit.*conv1\.weight.*3 channels and widths"):
        load_imagenet_encoder(net, tmp_path / "resnet18.pth")
