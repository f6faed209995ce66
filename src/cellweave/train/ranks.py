"""Several processes that train one model, one a device: started by ``torchrun``, found by its environment.

Without it everything here is the identity: one process, rank 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist

LONGEST_WAIT = timedelta(hours=6)
"""The other processes wait this long while the first one prepares the data."""


def count() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0. Rank 0 alone writes files and talks."""
    return int(os.environ.get("RANK", "0"))


def join(device: torch.device) -> torch.device:
    """Meet the other processes; returns the device of this one (`cuda` becomes the one of the local rank)."""
    if count() == 1:
        return device
    if device == torch.device("cuda"):
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not _joined():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    return device


def leave() -> None:
    """The end of the common work."""
    if _joined():
        dist.destroy_process_group()


def _joined() -> bool:
    return bool(dist.is_available() and dist.is_initialized())


def wait() -> None:
    """Until all processes are here."""
    if count() > 1:
        dist.barrier()


def average(tensors: Iterable[torch.Tensor]) -> None:
    """Give every process the mean of what all have in these tensors, in one message."""
    if count() == 1 or not (mine := list(tensors)):
        return
    flat = torch.cat([one.reshape(-1) for one in mine])
    dist.all_reduce(flat)
    flat /= count()
    for one, part in zip(mine, torch.split(flat, [one.numel() for one in mine]), strict=True):
        one.copy_(part.view_as(one))


def from_first(value: float, device: torch.device) -> float:
    """The number that rank 0 has."""
    if count() == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    dist.broadcast(shared, 0)
    return float(shared)
