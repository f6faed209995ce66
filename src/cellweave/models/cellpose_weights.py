"""Networks and size models of Cellpose 1 to 3, read without running code in their files."""

from __future__ import annotations

import math
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cellweave.core.errors import ModelError
from cellweave.core.names import some
from cellweave.io.seg_npy import read_header, read_object
from cellweave.models.size_model import SizeModel
from cellweave.nets.cellpose_unet import CellposeUNet

_OFFICIAL = re.compile(r"(cyto[23]?|nuclei)(torch_\d)?")
_HEAD = "output.2.weight"
_FIRST = "downsample.down.res_down_0.conv.conv_0.2.weight"
_INDEX = {"norm": 0, "conv": 2}


@dataclass(frozen=True)
class CellposeWeights:
    """A network read from a Cellpose file.

    Parameters
    ----------
    net
        The network, in evaluation mode, on the CPU.
    diam_mean
        Diameter in px to which cells are rescaled before the network sees them.
    diam_labels
        Mean diameter in px of the cells it was trained on, before rescaling; None in files older than
        Cellpose 2.
    """

    net: CellposeUNet
    diam_mean: float
    diam_labels: float | None


def load_cellpose_weights(path: str | os.PathLike[str]) -> CellposeWeights:
    """Read a PyTorch state dict that Cellpose 1, 2 or 3 wrote.

    Any number of input channels and of output maps from 3 up is accepted, and names that start with
    ``module.``. For a file without diameters `diam_mean` is 30. Under an official name (``cyto``,
    ``cyto2torch_0``, ``cyto3``, ``nucleitorch_0``, ...) it is 30, or 17 for nuclei, whatever the file
    says, as in Cellpose.

    Raises
    ------
    ModelError
        When the file is missing, damaged or something else (a network of Cellpose 4, a restoration model,
        a size model, safetensors, text), or lacks a name or has an unknown one; says which.
    """
    path = Path(path)
    state = _read_state_dict(path)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    _refuse_other_networks(path, state)

    net = CellposeUNet(in_channels=_size(state, _FIRST, axis=1) or 2, out_maps=_size(state, _HEAD, axis=0) or 3)
    theirs = {_peer_name(name): name for name in net.state_dict()}
    missing = sorted(theirs.keys() - state.keys())
    unknown = sorted(state.keys() - theirs.keys() - {"diam_mean", "diam_labels"})
    if missing or unknown:
        facts = [f"lacks {some(missing)}"] * bool(missing) + [f"has the unknown {some(unknown)}"] * bool(unknown)
        raise _refusal(path, f"is no Cellpose network of version 1 to 3: it {' and '.join(facts)}")
    ours = {name: state[peer] for peer, name in theirs.items()}
    wrong = [_peer_name(name) for name, value in net.state_dict().items() if value.shape != ours[name].shape]
    if wrong:
        raise _refusal(path, f"is no Cellpose network of version 1 to 3: of another shape are {some(wrong)}")
    net.load_state_dict(ours)

    diam_mean = _diameter(path, state, "diam_mean") or 30.0
    if _OFFICIAL.fullmatch(path.name):
        diam_mean = 17.0 if path.name.startswith("nuclei") else 30.0
    return CellposeWeights(net.eval(), diam_mean, _diameter(path, state, "diam_labels"))


def load_cellpose_size_model(path: str | os.PathLike[str]) -> SizeModel:
    """Read a size model of Cellpose (``size_cyto3.npy``, or a user's ``..._size.npy``).

    The file is a pickled dict of A and smean (S,), the mean ymean of the log diameters over diam_mean, and
    diam_mean in px; Cellpose's estimate is ``max(5, diam_mean * exp(A (style - smean) + ymean))``. The
    `SizeModel` returned is the same without the floor of 5 px.

    Raises
    ------
    ModelError
        When the file is missing, damaged or something else; nothing in it is run.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            read_header(stream)
            content = read_object(stream).item()
        a, mean_style = (np.asarray(content[name], np.float64).ravel() for name in ("A", "smean"))
        scale, offset = (float(np.asarray(content[name]).item()) for name in ("diam_mean", "ymean"))
        mean = offset + math.log(scale)
        if a.shape != mean_style.shape or not np.isfinite([*a, *mean_style, mean]).all():
            raise ValueError("A and smean must be as long as each other, and all numbers finite")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; check the path") from error
    except Exception as error:
        raise ModelError(
            f"{path} is damaged or no size model of Cellpose; nothing in it was run; choose a file such as "
            "size_cyto3.npy"
        ) from error
    return SizeModel(a, mean_style, mean)


def _peer_name(name: str) -> str:
    """Cellpose's name for one of `CellposeUNet`'s arrays, such as 'up.0.convs.1.norm.bias'."""
    part, *inner, leaf = name.split(".")
    if part == "head":
        return f"output.{_INDEX[inner[0]]}.{leaf}"
    scale = {"down": "downsample.down.res_down_", "up": "upsample.up.res_up_"}[part] + inner[0]
    if inner[1] == "project":
        return f"{scale}.proj.{0 if inner[2] == 'norm' else 1}.{leaf}"
    if inner[1] == "styles":
        return f"{scale}.conv.conv_{int(inner[2]) + 1}.full.{leaf}"
    styled = ".conv" if part == "up" and inner[2] != "0" else ""
    return f"{scale}.conv.conv_{inner[2]}{styled}.{_INDEX[inner[3]]}.{leaf}"


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; check the path") from error
    if start.startswith(b"\x93NUMPY"):
        raise _refusal(path, "is a NumPy file (as Cellpose's size models, size_*.npy, are), not a network")
    if start[8:9] == b"{":
        raise _refusal(path, "is a safetensors file, which Cellpose 1 to 3 do not write")
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise _refusal(path, f"is no PyTorch file: it {f'starts with {start[:8]!r}' if start else 'is empty'}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(
            path,
            "is damaged or holds other objects than weights, which are not loaded since they could run code",
        ) from error
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise ModelError(f"{path} is damaged or cut short; download or copy it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _refusal(path, "is a PyTorch file, but holds more or less than the weights of one network")
    return {str(name): value for name, value in state.items()}


def _refuse_other_networks(path: Path, state: dict[str, Tensor]) -> None:
    if "W2" in state:
        raise _refusal(path, "is a network of Cellpose 4 (Cellpose-SAM), another architecture")
    if _FIRST in state and state[_FIRST].ndim == 5:
        raise _refusal(path, "is a network with 3-D convolutions; this one works on planes")
    if (maps := _size(state, _HEAD, axis=0)) is not None and maps < 3:
        raise _refusal(
            path,
            f"gives {maps} map(s), as the restoration models of Cellpose 3 (denoise, deblur, upsample) do",
        )


def _refusal(path: Path, fact: str) -> ModelError:
    return ModelError(
        f"{path} {fact}; choose a segmentation network of Cellpose 1 to 3, such as cyto3, nuclei or your own"
    )


def _size(state: dict[str, Tensor], name: str, *, axis: int) -> int | None:
    return state[name].shape[axis] if name in state and state[name].ndim == 4 else None


def _diameter(path: Path, state: dict[str, Tensor], name: str) -> float | None:
    if name not in state:
        return None
    value = float(state[name].reshape(-1)[0]) if state[name].numel() else 0.0
    if not (math.isfinite(value) and value > 0):
        raise ModelError(f"{path} is damaged: its {name} is {value}; download or copy it again")
    return value
