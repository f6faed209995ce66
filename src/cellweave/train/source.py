"""Where batches come from: prepared samples, and pictures of the synthetic microscope, mixed by weights."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cellweave.core.progress import report
from cellweave.representations import MapFormat
from cellweave.train.augment import AUGMENTATIONS, batch, sampling_weights
from cellweave.train.config import TrainConfig
from cellweave.train.samples import Samples

AHEAD = 2
VIEWS = 2
"""Of a sample, to judge by."""
Batch = tuple[torch.Tensor, torch.Tensor]
"""Planes (B, P, crop, crop) and targets (B, T, crop, crop)."""


class Stream(Protocol):
    """Endless new samples, in blocks: block k is always the same."""

    @property
    def size(self) -> int:
        """Samples in a block."""

    def block(self, k: int) -> Samples:
        """Samples of block k, which are not kept."""


@dataclass
class Source:
    """Batches by number: each depends on the seed and its own number only.

    Parameters
    ----------
    samples
        Prepared images.
    config
        Batch size, crop, mixing, seed.
    representation
        Of the maps in `samples`.
    device
        Where batches are made. On an accelerator all samples are copied there once, so that it never waits for them.
    stream
        Simulated samples, of which a batch takes the share `config.simulated`.
    """

    samples: Samples
    config: TrainConfig
    representation: MapFormat
    device: torch.device
    stream: Stream | None = None
    _values: torch.Tensor = field(init=False, repr=False)
    _weights: NDArray[np.float64] = field(init=False, repr=False)
    _block: tuple[int, Samples, torch.Tensor] | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        self._values = torch.from_numpy(self.samples.values).to(self.device)
        self._weights = sampling_weights(
            [f.group for f in self.samples.facts], self.config.weights, [f.weight for f in self.samples.facts]
        )

    def batch(self, number: int) -> Batch:
        """Batch `number` of the training."""
        config, seed = self.config, [self.config.seed, number]
        rng = np.random.default_rng(seed)
        simulated = self._simulated(number)
        real = config.batch_size - simulated
        parts, way = [], AUGMENTATIONS[config.augmentation]
        if real:
            chosen = rng.choice(len(self.samples), real, p=self._weights).tolist()
            parts.append(
                batch(
                    self.samples, self._values, chosen, config.crop, [*seed, 0], self.representation, augmentation=way
                )
            )
        if simulated:
            samples, values = self._current_block(self._block_of(number))
            chosen = rng.integers(len(samples), size=simulated).tolist()
            parts.append(batch(samples, values, chosen, config.crop, [*seed, 1], self.representation, augmentation=way))
        if len(parts) == 1:
            return parts[0]
        planes, maps = (torch.cat(kind) for kind in zip(*parts, strict=True))
        return planes, maps

    def _simulated(self, number: int) -> int:
        """How many crops of a batch are simulated: the share, with what is lost by rounding made up over batches."""
        if self.stream is None:
            return 0
        share = self.config.simulated * self.config.batch_size
        return int((number + 1) * share) - int(number * share)

    def _block_of(self, number: int) -> int:
        """Each block serves until `reuse` crops have been cut from each of its samples."""
        assert self.stream is not None
        return int(number * self.config.simulated * self.config.batch_size) // (self.stream.size * self.config.reuse)

    def _current_block(self, k: int) -> tuple[Samples, torch.Tensor]:
        if self._block is None or self._block[0] != k:
            assert self.stream is not None
            samples = self.stream.block(k)
            self._block = k, samples, torch.from_numpy(samples.values).to(self.device)
        return self._block[1:]

    def batches(self, numbers: range) -> Iterator[Batch]:
        """Batches of these numbers in order, made two ahead in a thread."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        try:
            ahead: list[Future[Batch]] = [pool.submit(self.batch, number) for number in numbers[:AHEAD]]
            for number in numbers:
                current = ahead.pop(0)
                if number + AHEAD * numbers.step < numbers.stop:
                    ahead.append(pool.submit(self.batch, number + AHEAD * numbers.step))
                yield current.result()
        finally:  # an interrupted training does not wait for pictures that are still drawn
            pool.shutdown(wait=False, cancel_futures=True)


def fixed_batches(samples: Samples, config: TrainConfig, representation: MapFormat) -> Iterator[Batch]:
    """`VIEWS` fixed views of each sample, the same in every epoch and run, with their values as they are.

    Samples that all fit into a crop, and are not turned freely, are seen once, each as a whole.
    """
    way, views = replace(AUGMENTATIONS[config.augmentation], pixels="none", superposed=0.0), VIEWS
    if way.geometry in ("square", "none") and all(max(fact.shape) <= config.crop for fact in samples.facts):
        way, views = replace(way, overhang=0.0), 1
    values = torch.from_numpy(samples.values)
    chosen = [k for k in range(len(samples)) for _ in range(views)]
    for k in range(0, len(chosen), config.batch_size):
        report("preparing the validation", k, len(chosen))
        some = chosen[k : k + config.batch_size]
        yield batch(samples, values, some, config.crop, (2**31, k), representation, augmentation=way)
    report("preparing the validation", len(chosen), len(chosen))
