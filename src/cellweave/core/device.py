"""One `device` choice: cpu, cuda, mps, or auto (the fastest that is there)."""

from __future__ import annotations

import ctypes
import sys

import torch

from cellweave.core.errors import InputError


def choose_device(device: str = "auto") -> torch.device:
    """Turn 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps' into a torch device.

    Raises
    ------
    InputError
        When the named device is unknown or not on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = device.partition(":")
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count()
        if not index or index.isdigit()
        else False,
        "mps": torch.backends.mps.is_available(),
    }
    if kind not in there:
        raise InputError(f"device '{device}' is unknown; use auto, cpu, cuda or mps")
    if not there[kind]:
        raise InputError(f"device '{device}' is not available on this machine; use --device auto or cpu")
    return torch.device(device)


def inference_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware, float32 elsewhere."""
    if device.type == "cuda":
        capable = torch.cuda.is_bf16_supported()
    elif device.type == "cpu":
        # Private in torch, and absent from older ones; without an answer float32 is always right.
        tests = [getattr(torch.cpu, f"_is_{feature}_supported", None) for feature in ("avx512_bf16", "amx_tile")]
        capable = torch.backends.mkldnn.is_available() and any(test() for test in tests if test)  # type: ignore[no-untyped-call]
    else:
        capable = False
    return torch.bfloat16 if capable else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """A context in which nets compute in `inference_dtype`; weights, gradients and losses stay float32."""
    dtype = inference_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, up to 2 GiB, rather than give it back (glibc's malloc only).

    A training step frees and asks again for the same large arrays; on a processor, new pages take a seventh of its
    time.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)
