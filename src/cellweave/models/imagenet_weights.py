"""Weights of nets that were trained on ImageNet, for the encoders of `AnchorUNet` and `NestedUNet`."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cellweave.core.errors import ModelError
from cellweave.core.names import some
from cellweave.nets import AnchorUNet, NestedUNet

FIRST = "features.0.0.weight"
"""The first convolution of MobileNetV3."""
WIDTHS = {"resnet18": (64, 128, 256, 512), "mobilenet_v3_large": (16, 24, 40, 112, 160)}


def load_imagenet_encoder(net: AnchorUNet | NestedUNet, path: str | os.PathLike[str]) -> None:
    """Set the encoder of `net` to one trained on ImageNet; the rest of the net stays as it is.

    Parameters
    ----------
    net
        A net of the default widths; it is changed. An `AnchorUNet` has 3 channels. Of a `NestedUNet` with another
        number, the first channel is looked at as a gray picture, and the others have no weight in the beginning.
    path
        State dict of a ResNet-18, or for `NestedUNet` of a MobileNetV3-Large, with torchvision's names,
        ``.safetensors`` or what ``torch.save`` wrote. Layers that the encoder lacks are not used; counters
        ``num_batches_tracked``, which old files lack, stay as they are then.

    Raises
    ------
    ModelError
        When the file is missing, damaged or holds something else, or its weights have other shapes than those of `net`;
        says which. Nothing in the file is run, and `net` is unchanged.
    """
    path = Path(path)
    state = read_state(path)
    own = net.encoder.state_dict()
    nested = isinstance(net, NestedUNet)
    kind, unused = ("mobilenet_v3_large", ("features.16.", "classifier.")) if nested else ("resnet18", ("fc.",))
    theirs = {name: value for name, value in state.items() if not name.startswith(unused)}
    missing = [name for name in own if name not in theirs and not name.endswith("num_batches_tracked")]
    unknown = [name for name in theirs if name not in own]
    if missing or unknown:
        facts = [f"lacks {some(missing)}"] * bool(missing) + [f"has the unknown {some(unknown)}"] * bool(unknown)
        raise ModelError(
            f"{path} is no {kind} with torchvision's names: it {' and '.join(facts)}; "
            f"choose the state dict of torchvision's {kind}"
        )
    if nested and net.in_channels != 3 and theirs[FIRST].ndim == 4:
        gray = theirs[FIRST].sum(dim=1, keepdim=True)
        theirs[FIRST] = F.pad(gray, (0, 0, 0, 0, 0, net.in_channels - 1))
    wrong = [
        f"{name} {tuple(value.shape)} in place of {tuple(own[name].shape)}"
        for name, value in theirs.items()
        if value.shape != own[name].shape
    ]
    if wrong:
        raise ModelError(
            f"{path} does not fit this net ({net.in_channels} channels, widths {net.widths}): it has {some(wrong)}; "
            f"ImageNet's weights are for 3 channels and widths {WIDTHS[kind]}"
        )
    net.encoder.load_state_dict(own | theirs)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file: safetensors, or what ``torch.save`` wrote; raises a `ModelError` for anything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is damaged, or holds more than a state dict; nothing in it was run; "
            "save the weights with torch.save(model.state_dict(), path)"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged or no file of weights; copy or download it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds something else than a state dict; save model.state_dict() alone")
    return {str(name): value for name, value in state.items()}
