"""The full Mask R-CNN: torchvision's own, its weights fit, and its folder is checked."""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cellweave.core.errors import MissingExtraError, ModelError
from cellweave.predict.mask_rcnn import Architecture, Detector, detect, load_weights
from cellweave.predict.torchvision_ops import load_torchvision


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    architecture = Architecture(20, 64, "resnet18")
    return Detector(architecture.build(), architecture, name="untrained")


def test_a_folder_is_written_and_read(detector: Detector, tmp_path: Path) -> None:
    saved = detector.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model")
    assert loaded.hash == saved.hash
    assert loaded.architecture == detector.architecture
    picture = np.random.default_rng(0).integers(0, 255, (50, 64)).astype(np.uint8)
    found, same = (detect(picture, one, confidence=0.0, overlap=0.05, device="cpu") for one in (saved, loaded))
    assert found.labels.shape == (50, 64)
    assert len(found.points) > 0
    assert (found.labels == same.labels).all()
    for name, message in (("model.safetensors", "altered"), ("model.json", "cannot be used")):
        (tmp_path / "model" / name).write_bytes(b"{}")
        with pytest.raises(ModelError, match=message):
            Detector.load(tmp_path / "model")
    with pytest.raises(ModelError, match="is missing"):
        Detector.load(tmp_path)


@pytest.mark.parametrize(("logit", "looked_at"), [(-2.5, True), (-3.5, False)])
def test_what_is_hardly_a_cell_is_not_looked_at_again(detector: Detector, logit: float, looked_at: bool) -> None:
    net = deepcopy(detector.net)
    last = net.rpn.head.cls_logits
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, logit)
    picture = np.random.default_rng(0).integers(0, 255, (50, 64)).astype(np.uint8)
    found = detect(picture, replace(detector, net=net), confidence=0.0, overlap=0.05, device="cpu")
    assert (len(found.points) > 0) == looked_at


def test_other_models_are_refused(model_folder: Path) -> None:
    with pytest.raises(ModelError, match="no Mask R-CNN"):
        Detector.load(model_folder)


def test_weights_of_torchvision_fit(tmp_path: Path) -> None:
    """Of its Mask R-CNN with the 91 classes of COCO everything but the last layers, of its ResNet the backbone."""
    models = load_torchvision().models
    net = Architecture(backbone="resnet50", pretrained=True).build()
    theirs = models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = {k: v for k, v in theirs.state_dict().items() if "num_batches_tracked" not in k}
    assert set(state) == set(net.state_dict())
    torch.save(state, tmp_path / "coco.pth")
    load_weights(net, tmp_path / "coco.pth")
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]) or value.shape != state[name].shape, name
    assert sum(v.shape != state[k].shape for k, v in net.state_dict().items()) == 10
    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    small = Architecture(backbone="resnet18", pretrained=True).build()
    load_weights(small, tmp_path / "resnet18.pth")
    with pytest.raises(ModelError, match="does not fit"):
        load_weights(net, tmp_path / "resnet18.pth")


def test_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    load_torchvision.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r"cellweave\[detect\]"):
        Architecture().build()
