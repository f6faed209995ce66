"""Losses where the truth is known in part of the pixels only: NaN in a target means that no one looked there."""

from __future__ import annotations

import torch


def split_known(target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets (B, T, Y, X), float32, with 0 in the place of what is unknown, and the known pixels (B, Y, X), bool.

    A pixel with a NaN in any target is unknown.
    """
    known = ~target.isnan().any(dim=1)
    return torch.where(known[:, None], target.float(), 0.0), known


def known_mean(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean of values (B, Y, X), or (B, M, Y, X), over the known pixels (B, Y, X); 0 without any.

    Where all pixels are known it is the mean of contiguous `values`, to the last bit.
    """
    some = known if values.ndim == known.ndim else known[:, None]
    return torch.where(some, values, 0.0).mean() * (known.numel() / known.sum().clamp(min=1))
