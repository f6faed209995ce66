"""Weights of a ResNet-18 that was trained on ImageNet, for the encoder of `AnchorUNet`."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from torch import Tensor

from cellweave.core.errors import ModelError
from cellweave.nets import AnchorUNet


def load_imagenet_encoder(net: AnchorUNet, path: str | os.PathLike[str]) -> None:
    """Set the encoder of `net` to a ResNet-18 trained on ImageNet; the rest of the net stays as it is.

    Parameters
    ----------
    net
        A net of 3 channels and the default widths; it is changed.
    path
        State dict of a ResNet-18 with torchvision's names, ``.safetensors`` or what ``torch.save`` wrote. ``fc.weight``
        and ``fc.bias`` are not used; counters ``num_batches_tracked``, which old files lack, stay as they are then.

    Raises
    ------
    ModelError
        When the file is missing, damaged or holds something else, or its weights have other shapes than those of `net`;
        says which. Nothing in the file is run, and `net` is unchanged.
    """
    path = Path(path)
    state = read_state(path)
    own = net.encoder.state_dict()
    theirs = {name: value for name, value in state.items() if name not in ("fc.weight", "fc.bias")}
    missing = [name for name in own if name not in theirs and not name.endswith("num_batches_tracked")]
    unknown = [name for name in theirs if name not in own]
    if missing or unknown:
        facts = [f"lacks {_some(missing)}"] * bool(missing) + [f"has the unknown {_some(unknown)}"] * bool(unknown)
        raise ModelError(
            f"{path} is no ResNet-18 with torchvision's names: it {' and '.join(facts)}; "
            "choose the state dict of torchvision's resnet18"
        )
    wrong = [
        f"{name} {tuple(value.shape)} in place of {tuple(own[name].shape)}"
        for name, value in theirs.items()
        if value.shape != own[name].shape
    ]
    if wrong:
        raise ModelError(
            f"{path} does not fit this net ({net.in_channels} channels, widths {net.widths}): it has {_some(wrong)}; "
            "ImageNet's weights are for 3 channels and widths (64, 128, 256, 512)"
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


def _some(names: list[str]) -> str:
    """The first three of a list, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
