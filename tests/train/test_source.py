"""Where batches come from: each depends on its number only, and the simulated share is exact."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cellweave.representations import DiffusionFlows, Heatmap
from cellweave.train.config import TrainConfig
from cellweave.train.samples import Facts, Samples
from cellweave.train.source import Source, fixed_batches

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def flat(values: list[float], groups: list[str], side: int = 200) -> Samples:
    """Samples of one gray value each, so that a crop tells where it comes from."""
    array = np.zeros((len(values), side * side, 6), np.float16)
    for sample, value in zip(array, values, strict=True):
        sample[:, 0] = sample[:, 5] = value
    facts = [Facts(str(v), g, (side, side), ((1, 0, 0), (0, 1, 0)), False) for v, g in zip(values, groups, strict=True)]
    return Samples(array.reshape(-1, 6), tuple(facts))


@dataclass
class Blocks:
    """A stream whose maps tell the block: 100 and its number."""

    size: int = 4
    asked: list[int] = field(default_factory=list)

    def block(self, k: int) -> Samples:
        self.asked.append(k)
        return flat([100.0 + k] * self.size, ["simulated/x"] * self.size)


def source(samples: Samples, stream: Any = None, **options: Any) -> Source:
    settings = {"batch_size": 4, "crop": 32, "device": "cpu", **options}
    return Source(samples, TrainConfig(out=Path("unused"), **settings), DiffusionFlows(), CPU, stream)


def origins(batch: tuple[torch.Tensor, torch.Tensor]) -> list[float]:
    """The value of the sample that each crop shows; crops reach over the border of small samples only."""
    return [float(m[2].max()) for m in batch[1]]


@pytest.fixture
def real() -> Samples:
    return flat([1, 2, 3, 4, 5, 6], ["a", "a", "a", "a", "b", "b"])


@pytest.mark.parametrize("simulated", [0.0, 0.4])
def test_a_batch_is_the_same_whatever_was_drawn_before(real: Samples, simulated: float) -> None:
    stream = Blocks() if simulated else None
    whole = list(source(real, stream, simulated=simulated).batches(range(12)))
    for number in (0, 5, 11):
        alone = source(real, Blocks() if simulated else None, simulated=simulated).batch(number)
        for a, b in zip(alone, whole[number], strict=True):
            assert torch.equal(a, b)
    second = list(source(real, Blocks() if simulated else None, simulated=simulated).batches(range(3, 12, 2)))
    for number, one in zip(range(3, 12, 2), second, strict=True):
        assert torch.equal(one[0], whole[number][0])
    assert not torch.equal(whole[0][0], whole[1][0])


def test_another_seed_gives_other_batches(real: Samples) -> None:
    first, other = (source(real, seed=seed).batch(0) for seed in (0, 1))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(("share", "size"), [(0.5, 4), (0.3, 4), (0.1, 3), (0.99, 8), (0.07, 2)])
def test_the_share_of_simulated_crops_is_exact_over_time(real: Samples, share: float, size: int) -> None:
    made = source(real, Blocks(), simulated=share, batch_size=size)
    simulated = 0
    for number in range(30):
        found = origins(made.batch(number))
        assert len(found) == size
        simulated += sum(value >= 100 for value in found)
        assert abs(simulated - (number + 1) * share * size) < 1


def test_each_block_serves_for_reuse_crops_of_each_sample(real: Samples) -> None:
    stream = Blocks(size=4)
    made = source(real, stream, simulated=0.5, reuse=3)
    shown = [max(origins(made.batch(number))) for number in range(18)]
    assert shown == [100.0] * 6 + [101.0] * 6 + [102.0] * 6  # 4 samples x 3 crops, two a batch
    assert stream.asked == [0, 1, 2]


def test_groups_are_shown_by_their_weights(real: Samples) -> None:
    made = source(real, weights={"a": 0.25}, batch_size=8)
    found = [value for number in range(60) for value in origins(made.batch(number))]
    assert np.mean(np.array(found) <= 4) == pytest.approx(0.25, abs=0.06)


def test_validation_views_are_the_same_in_every_run(real: Samples) -> None:
    def views(seed: int) -> list[Any]:
        config = TrainConfig(out=Path("unused"), batch_size=4, crop=32, seed=seed)
        return list(fixed_batches(real, config, DiffusionFlows()))

    first, second = views(0), views(1)
    assert [len(planes) for planes, _ in first] == [4, 4, 4]
    assert [value for one in first for value in origins(one)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    for (a, m), (b, n) in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(m, n)


def test_samples_that_fit_into_a_crop_are_judged_once_as_a_whole(real: Samples) -> None:
    for augmentation, crop, crops in (("square", 224, 1), ("standard", 224, 2), ("square", 96, 2)):
        config = TrainConfig(Path("unused"), augmentation=augmentation, crop=crop)
        found = list(fixed_batches(real, config, Heatmap(2.0)))
        planes, maps = (torch.cat(part) for part in zip(*found, strict=True))
        assert len(planes) == crops * len(real)
        if crops == 1:
            assert ((planes[:, 0] > 0).sum(dim=(1, 2)) == 200 * 200).all()
            assert torch.isfinite(maps).all()


def test_an_interrupted_training_does_not_wait_for_a_stream(real: Samples) -> None:
    """The thread that makes batches may hang in the stream; whoever stops taking batches goes on at once."""
    release = threading.Event()

    class Slow(Blocks):
        def block(self, k: int) -> Samples:
            if k:
                release.wait(20)
            return super().block(k)

    batches = source(real, Slow(size=1), simulated=0.5, reuse=1).batches(range(10))
    next(batches)
    start = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 5
    release.set()


def test_an_error_in_the_stream_reaches_the_training(real: Samples) -> None:
    class Broken(Blocks):
        def block(self, k: int) -> Samples:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(source(real, Broken(), simulated=0.5).batches(range(3)))


def test_batches_are_made_ahead(real: Samples) -> None:
    made: list[int] = []
    one = source(real)
    batch: Callable[[int], Any] = one.batch

    def counted(number: int) -> Any:
        made.append(number)
        return batch(number)

    one.batch = counted  # type: ignore[method-assign]
    batches = one.batches(range(6))
    next(batches)
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2]
    assert len(list(batches)) == 5
    assert made == list(range(6))
