"""The training loop: it learns, it can be stopped at any moment and goes on to the same weights."""

from __future__ import annotations

import copy
import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cellweave.core.errors import CellweaveError, InputError, WriteError
from cellweave.core.image import Image
from cellweave.core.progress import showing
from cellweave.nets import CellposeUNet, FastUNet
from cellweave.prep import Channels, Normalisation
from cellweave.representations import DiffusionFlows
from cellweave.train import loop
from cellweave.train.config import SETTLED, TrainConfig, rate_at
from cellweave.train.loop import AVERAGED, FEWEST_STEPS, best_weights, fit
from cellweave.train.samples import Example, Preparation, Samples, joined, load, prepare
from cellweave.train.source import Source

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, domes: Callable[..., Any]) -> Path:
    """Five pictures of bright domes, prepared."""
    made = [domes(k, (90, 100), 6) for k in range(5)]
    examples = [Example(str(k), Image(picture[None]), labels) for k, (picture, labels) in enumerate(made)]
    preparation = Preparation(24.0, Channels(), Normalisation(), DiffusionFlows())
    file = tmp_path_factory.mktemp("cache") / "samples.f16"
    prepare(examples, preparation, file)
    return file


@pytest.fixture(scope="module")
def samples(file: Path) -> Samples:
    return load(file)


def part(samples: Samples, first: int, last: int) -> Samples:
    """Samples `first` to `last`, without the last."""
    return Samples(samples.values[samples.starts[first] : samples.starts[last]], samples.facts[first:last])


def config(out: Path, **options: Any) -> TrainConfig:
    return TrainConfig(out=out, **{"epochs": 3, "batch_size": 4, "crop": 32, "device": "cpu", **options})


def narrow(seed: int = 0) -> FastUNet:
    torch.manual_seed(seed)
    return FastUNet(widths=(4, 8, 8, 8))


def run(samples: Samples, settings: TrainConfig, *, resume: bool = False, net: nn.Module | None = None) -> nn.Module:
    """Train on four samples, judge by the fifth."""
    settings.out.mkdir(parents=True, exist_ok=True)
    net = net or narrow()
    fit(net, DiffusionFlows(), part(samples, 0, 4), part(samples, 4, 5), settings, resume=resume)
    return net


def log_rows(out: Path) -> list[dict[str, float]]:
    with (out / "log.csv").open(newline="") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def assert_equal_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def assert_equal_nets(a: nn.Module, b: nn.Module) -> None:
    assert_equal_weights(a.state_dict(), b.state_dict())


def assert_equal_runs(a: Path, b: Path) -> None:
    """Trained and averaged weights, the optimiser, the usual gradient, and the log but for the clock."""
    first, second = (torch.load(out / "checkpoint.pt", weights_only=True) for out in (a, b))
    for name in ("net", "averaged"):
        assert_equal_weights(first[name], second[name])
    for mine, other in zip(first["optimiser"]["state"].values(), second["optimiser"]["state"].values(), strict=True):
        for name, value in mine.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name
    assert torch.equal(first["state"]["usual_norm"], second["state"]["usual_norm"])
    rows, others = log_rows(a), log_rows(b)
    for name in ("epoch", "training_loss", "validation_loss", "learning_rate"):
        assert [row[name] for row in rows] == [row[name] for row in others]


def test_training_lowers_the_loss(samples: Samples, tmp_path: Path) -> None:
    net = run(samples, config(tmp_path, epochs=8, learning_rate=0.01, crop=64))
    rows = log_rows(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert rows[-1]["training_loss"] < 0.6 * rows[0]["training_loss"]
    assert min(row["validation_loss"] for row in rows) < 0.6 * rows[0]["validation_loss"]
    assert not net.training
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_what_a_run_leaves(samples: Samples, tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=2)
    net = run(samples, settings)
    assert {"best.pt", "checkpoint.pt", "log.csv"} <= {p.name for p in tmp_path.iterdir()}
    assert list(tmp_path.glob(".*")) == []
    assert_equal_weights(net.state_dict(), best_weights(tmp_path))
    for row in log_rows(tmp_path):
        assert list(row) == [
            "epoch",
            "training_loss",
            "validation_loss",
            "learning_rate",
            "seconds",
            "patches_per_second",
            "data_wait_percent",
        ]
        assert row["learning_rate"] == pytest.approx(rate_at(settings, row["epoch"] - 1 / FEWEST_STEPS))
        assert row["patches_per_second"] == pytest.approx(FEWEST_STEPS * 4 / row["seconds"], rel=0.2)
        assert 0 <= row["data_wait_percent"] <= 100
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert json.loads(content["config"])["epochs"] == 2
    assert content["state"]["step"] == 2 * FEWEST_STEPS


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed")
def test_tensorboard_sees_every_epoch(samples: Samples, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(samples, config(tmp_path, epochs=3))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = log_rows(tmp_path)
    for name in ("training_loss", "validation_loss", "learning_rate", "patches_per_second"):
        found = events.Scalars(name)
        assert [e.step for e in found] == [1, 2, 3]
        assert [e.value for e in found] == pytest.approx([row[name] for row in rows], rel=1e-4)


def test_without_tensorboard_training_works(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with caplog.at_level("INFO", logger="cellweave"):
        run(samples, config(tmp_path, epochs=1))
    assert "cellweave[tensorboard]" in caplog.text
    assert not (tmp_path / "tensorboard").exists()
    assert len(log_rows(tmp_path)) == 1


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed")
def test_tensorboard_that_cannot_be_written_is_no_reason_to_stop(
    samples: Samples, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorboard").touch()  # no folder can be made there
    run(samples, config(tmp_path, epochs=2))
    assert len(log_rows(tmp_path)) == 2
    assert caplog.text.count("no TensorBoard events are written any more") == 1

    from torch.utils.tensorboard import SummaryWriter

    def full(self: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "flush", full)
    run(samples, config(tmp_path / "b", epochs=2))
    assert len(log_rows(tmp_path / "b")) == 2
    assert caplog.text.count("No space left on device") == 1


def test_the_same_seed_gives_the_same_weights(samples: Samples, tmp_path: Path) -> None:
    first, second = (run(samples, config(tmp_path / name, epochs=2)) for name in "ab")
    assert_equal_nets(first, second)
    other = run(samples, config(tmp_path / "c", epochs=2, seed=1))
    assert not torch.equal(other.state_dict()["head.weight"], first.state_dict()["head.weight"])


class Stop(Exception):
    """Raised in the middle of a run."""


def stop_at(step: int) -> Callable[..., None]:
    def sink(task: str, done: int, total: int, note: str) -> None:
        if task == "training" and done == step and "validating" not in note:
            raise Stop

    return sink


@pytest.mark.parametrize("recipe", ["adamw", "sgd", "adam"])
@pytest.mark.parametrize("step", [2 * FEWEST_STEPS + 3, 2 * FEWEST_STEPS])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    samples: Samples, tmp_path: Path, recipe: str, step: int
) -> None:
    """Stopped in the third epoch, or after the last step of the second, before its checkpoint."""
    options: dict[str, Any] = {"epochs": 4, "recipe": recipe, "learning_rate": 0.01}
    unbroken = run(samples, config(tmp_path / "a", **options))
    with pytest.raises(Stop), showing(stop_at(step)):
        run(samples, config(tmp_path / "b", **options))
    whole = (step - 1) // FEWEST_STEPS
    assert len(log_rows(tmp_path / "b")) == whole
    resumed = run(samples, config(tmp_path / "b", **options), resume=True, net=narrow(seed=9))
    assert_equal_nets(resumed, unbroken)
    assert_equal_runs(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(("accumulate", "sums"), [(1, False), (2, False), (1, True)])
def test_a_run_goes_on_in_the_middle_of_an_epoch(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int, sums: bool
) -> None:
    """A checkpoint at every step: not one is made again, and the result is that of an unbroken run."""
    monkeypatch.setattr(DiffusionFlows, "sums", sums)  # then batch norms settle in the third epoch
    options: dict[str, Any] = {"epochs": 3, "learning_rate": 0.01, "accumulate": accumulate}
    unbroken = run(samples, config(tmp_path / "a", **options))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    made: list[int] = []
    resumed: nn.Module | None = None
    for stop in (3, 6, FEWEST_STEPS + 5, 2 * FEWEST_STEPS + 1):

        def sink(task: str, done: int, total: int, note: str, stop: int = stop) -> None:
            if task == "training" and "validating" not in note:
                made.append(done)
                if done == stop:
                    raise Stop

        with pytest.raises(Stop), showing(sink):
            run(samples, config(tmp_path / "b", **options), resume=stop > 3, net=narrow(seed=stop if stop > 3 else 0))
    resumed = run(samples, config(tmp_path / "b", **options), resume=True, net=narrow(seed=9))
    assert_equal_nets(resumed, unbroken)
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
    # Stopped when the step was told, just before its checkpoint: that step alone is made twice.
    assert made == sorted(made)
    assert len(made) - len(set(made)) == 3


def test_a_row_of_the_log_is_there_once(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between the row of an epoch and its checkpoint, the epoch is made again, and its row replaced."""
    unbroken = run(samples, config(tmp_path / "a", epochs=3))
    save, saved = loop._save_checkpoint, []

    def third(*arguments: Any) -> None:
        saved.append(1)
        if len(saved) == 2:
            raise Stop
        save(*arguments)

    monkeypatch.setattr(loop, "_save_checkpoint", third)
    with pytest.raises(Stop):
        run(samples, config(tmp_path / "b", epochs=3))
    assert len(log_rows(tmp_path / "b")) == 2
    resumed = run(samples, config(tmp_path / "b", epochs=3), resume=True, net=narrow(seed=9))
    assert [row["epoch"] for row in log_rows(tmp_path / "b")] == [1, 2, 3]
    assert_equal_nets(resumed, unbroken)


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from cellweave.nets import FastUNet
from cellweave.representations import DiffusionFlows
from cellweave.train import loop
from cellweave.train.config import TrainConfig
from cellweave.train.samples import Samples, load
out, file = map(Path, sys.argv[1:])
torch.manual_seed(0)
samples, starts = load(file), load(file).starts
parts = [Samples(samples.values[starts[a]:starts[b]], samples.facts[a:b]) for a, b in ((0, 4), (4, 5))]
loop.CHECKPOINT_SECONDS = 0.0
settings = TrainConfig(out=out, epochs=100, batch_size=4, crop=32, device="cpu")
loop.fit(FastUNet(widths=(4, 8, 8, 8)), DiffusionFlows(), *parts, settings)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_a_killed_process_goes_on_at_its_last_checkpoint(samples: Samples, file: Path, tmp_path: Path) -> None:
    """SIGKILL, which nobody can catch, somewhere in an epoch; from there the run is the one that was not killed."""
    out = tmp_path / "out"
    out.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, out, file], env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if (out / "log.csv").exists() and len(log_rows(out)) >= 2:
                break
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    step = torch.load(out / "checkpoint.pt", weights_only=True)["state"]["step"]
    assert step >= 2 * FEWEST_STEPS
    end = (step // FEWEST_STEPS + 1) * FEWEST_STEPS + 1
    reached: list[int] = []

    def sink(task: str, done: int, total: int, note: str) -> None:
        if task == "training" and "validating" not in note:
            reached.append(done)
            if done == end:
                raise Stop

    with pytest.raises(Stop), showing(sink):
        run(samples, config(out, epochs=100), resume=True, net=narrow(seed=9))
    assert reached == list(range(step + 1, end + 1))
    with pytest.raises(Stop), showing(stop_at(end)):
        run(samples, config(tmp_path / "unbroken", epochs=100))
    assert_equal_runs(out, tmp_path / "unbroken")


def test_nothing_to_resume(samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing to resume: there is no .*checkpoint\.pt; start without --resume"):
        run(samples, config(tmp_path), resume=True)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other keys", "not a dict", "config", "state", "net"])
def test_a_damaged_checkpoint_is_told(samples: Samples, tmp_path: Path, damage: str) -> None:
    settings = config(tmp_path, epochs=1)
    run(samples, settings)
    path = tmp_path / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-3000])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("hello")
        case "other keys":
            torch.save({"weights": 3}, path)
        case "not a dict":
            torch.save([1, 2], path)
        case "config":
            torch.save(content | {"config": "{"}, path)
        case "state":
            torch.save(content | {"state": {"epochs": 3}}, path)
        case "net":
            torch.save(content | {"net": {"head.weight": torch.zeros(3)}}, path)
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged .*start again without --resume"):
        run(samples, settings, resume=True)


def test_a_checkpoint_runs_no_code(samples: Samples, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"config": "{}", "net": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="is damaged"):
        run(samples, config(tmp_path), resume=True)
    assert not (tmp_path / "ran").exists()


def test_resuming_with_other_settings_is_refused(samples: Samples, tmp_path: Path) -> None:
    run(samples, config(tmp_path, epochs=1))
    with pytest.raises(InputError, match=r"other settings \(crop=32, seed=0\)"):
        run(samples, config(tmp_path, epochs=1, crop=96, seed=1), resume=True)
    run(samples, config(tmp_path, epochs=1, device="auto"), resume=True)  # the device may change


def test_a_checkpoint_may_be_older_than_some_settings(samples: Samples, tmp_path: Path) -> None:
    """They have their defaults then."""
    run(samples, config(tmp_path, epochs=1))
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    before = {k: v for k, v in json.loads(content["config"]).items() if k not in ("width", "warmup")}
    torch.save(content | {"config": json.dumps(before)}, tmp_path / "checkpoint.pt")
    run(samples, config(tmp_path, epochs=1), resume=True)
    with pytest.raises(InputError, match=r"other settings \(warmup=None\)"):
        run(samples, config(tmp_path, epochs=1, warmup=0.5), resume=True)


def test_a_run_may_be_made_longer_before_its_rate_falls(samples: Samples, tmp_path: Path) -> None:
    """Stopped on the plateau, 5 epochs become 8, with the rates of a run of 8 epochs."""
    settings = config(tmp_path, epochs=8, learning_rate=0.01)
    with pytest.raises(Stop), showing(stop_at(int(SETTLED * 5) * FEWEST_STEPS)):
        run(samples, replace(settings, epochs=5))
    with pytest.raises(InputError, match=r"other settings \(epochs=5\)"):
        run(samples, replace(settings, epochs=3), resume=True)  # its rate would fall already
    run(samples, settings, resume=True, net=narrow(seed=9))
    assert [row["epoch"] for row in log_rows(tmp_path)] == list(range(1, 9))
    for row in log_rows(tmp_path):
        assert row["learning_rate"] == pytest.approx(rate_at(settings, row["epoch"] - 1 / FEWEST_STEPS))
    assert rate_at(settings, 2.5) == rate_at(replace(settings, epochs=5), 2.5) == 0.01


def test_a_run_may_be_made_shorter_before_its_rate_would_fall(samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(Stop), showing(stop_at(3 * FEWEST_STEPS + 1)):
        run(samples, config(tmp_path, epochs=50, learning_rate=0.01))
    settings = config(tmp_path, epochs=6, learning_rate=0.01)
    run(samples, settings, resume=True, net=narrow(seed=9))
    rows = log_rows(tmp_path)
    assert [row["epoch"] for row in rows] == list(range(1, 7))
    assert rows[-1]["learning_rate"] == pytest.approx(rate_at(settings, 6 - 1 / FEWEST_STEPS))


def test_a_run_whose_rate_fell_cannot_be_made_longer(samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(Stop), showing(stop_at(4 * FEWEST_STEPS + 1)):
        run(samples, config(tmp_path / "a", epochs=5))
    with pytest.raises(InputError, match=r"other settings \(epochs=5\)"):
        run(samples, config(tmp_path / "a", epochs=8), resume=True)
    with pytest.raises(Stop), showing(stop_at(FEWEST_STEPS + 1)):
        run(samples, config(tmp_path / "b", epochs=5, recipe="sgd"))
    with pytest.raises(InputError, match=r"other settings \(epochs=5\)"):  # the paper's schedule depends on its length
        run(samples, config(tmp_path / "b", epochs=8, recipe="sgd"), resume=True)


def test_a_finished_run_can_be_resumed(samples: Samples, tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=2)
    first = run(samples, settings)
    again = run(samples, settings, resume=True, net=narrow(seed=9))
    assert_equal_nets(first, again)
    assert len(log_rows(tmp_path)) == 2


def test_a_new_run_in_an_old_folder_starts_from_scratch(samples: Samples, tmp_path: Path) -> None:
    """If it may; otherwise the old one stays."""
    run(samples, config(tmp_path, epochs=3, learning_rate=0.01))
    before = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    with pytest.raises(InputError, match="holds a run already; go on with it by --resume, replace it by --overwrite"):
        run(samples, config(tmp_path, epochs=1))
    assert {file: file.read_bytes() for file in before} == before
    fresh = run(samples, config(tmp_path, epochs=1, overwrite=True))
    assert len(log_rows(tmp_path)) == 1
    assert_equal_nets(fresh, run(samples, config(tmp_path / "other", epochs=1)))


def test_averaged_weights_are_their_formula() -> None:
    """a <- d a + (1 - d) w, d = min(0.999, (1 + step) / (10 + step)); whole numbers are copied."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    averaged = copy.deepcopy(net)
    expected = {k: v.double().clone() for k, v in net.state_dict().items()}
    for step in (0, 1, 2, 50, 10**6):
        with torch.no_grad():
            for value in net.state_dict().values():
                value.copy_(torch.randn(value.shape) * 5)
        loop._average(averaged, net, step)
        keep = min(AVERAGED, (1 + step) / (10 + step))
        for name, value in net.state_dict().items():
            whole = not value.is_floating_point()
            expected[name] = value.double() if whole else keep * expected[name] + (1 - keep) * value.double()
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def clipped(run: loop._Run, norm: float) -> torch.Tensor:
    """What is left of a gradient of all ones, times what makes it so long."""
    (weight,) = run.net.parameters()
    weight.grad = torch.full_like(weight, norm / weight.numel() ** 0.5)
    loop._clip(run)
    return weight.grad


def test_a_gradient_that_is_longer_than_usual_is_shortened() -> None:
    run = loop._Run(nn.Linear(4, 4, bias=False), nn.Module(), Any, torch.device("cpu"), {})  # type: ignore[arg-type]
    assert clipped(run, 1e6).norm() == pytest.approx(loop.LARGEST_NORM, rel=1e-4)  # the first: nothing is usual yet
    for _ in range(2000):
        usual = clipped(run, 0.1)
    assert torch.equal(usual, torch.full((4, 4), 0.1 / 4))
    assert run.state.usual_norm == pytest.approx(0.1, rel=1e-3)
    shortened = clipped(run, 1000.0)
    assert shortened.norm() == pytest.approx(loop.STEEPEST * 0.1, rel=1e-3)
    assert len(shortened.unique()) == 1  # it points where it did
    assert run.state.usual_norm == pytest.approx(0.1 * (1 + 0.01 * (loop.STEEPEST - 1)), rel=1e-3)
    for _ in range(500):
        steeper = clipped(run, 1.0)
    assert steeper.norm() == pytest.approx(1.0, rel=1e-4)  # what stays is usual after a while


def test_what_is_kept_and_judged_are_averaged_weights(samples: Samples, tmp_path: Path) -> None:
    run(samples, config(tmp_path, epochs=1))
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert_equal_weights(content["averaged"], best_weights(tmp_path))
    assert not torch.equal(content["averaged"]["head.weight"], content["net"]["head.weight"])


class Recording(torch.optim.SGD):
    """Keeps the gradients of its first step."""

    first: list[torch.Tensor]

    def step(self, *arguments: Any, **options: Any) -> Any:
        if not hasattr(self, "first"):
            self.first = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        return super().step(*arguments, **options)


def test_accumulated_gradients_are_the_mean_of_those_of_the_batches(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Recording] = []

    def optimiser(net: nn.Module, settings: TrainConfig) -> Recording:
        made.append(Recording(net.parameters(), lr=settings.peak_rate))
        return made[-1]

    monkeypatch.setattr(loop, "_optimiser", optimiser)
    monkeypatch.setattr(loop, "_clip", lambda _: None)
    settings = config(tmp_path, epochs=1, accumulate=2)
    run(samples, settings)

    source = Source(part(samples, 0, 4), settings, DiffusionFlows(), torch.device("cpu"))
    net = narrow().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    gradients = []
    for number in range(2):
        net.zero_grad()
        planes, maps = source.batch(number)
        loop._loss(net, DiffusionFlows(), planes, maps, torch.device("cpu")).backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    for found, a, b in zip(made[0].first, *gradients, strict=True):
        torch.testing.assert_close(found, (a + b) / 2, rtol=1e-4, atol=1e-5)


class Exploding(FastUNet):
    """Its outputs become NaN: after some batches of the training, or when it is evaluated."""

    def __init__(self, *, training: bool) -> None:
        super().__init__(widths=(2, 2, 2, 2))
        self.when, self.calls = training, 0

    def forward(self, x: torch.Tensor) -> Any:
        self.calls += 1
        output = super().forward(x)
        if self.training == self.when and self.calls > 5 * self.when:
            return output._replace(maps=output.maps * float("nan"))
        return output


@pytest.mark.parametrize("training", [True, False])
def test_a_loss_that_is_no_number_ends_the_run(samples: Samples, tmp_path: Path, training: bool) -> None:
    with pytest.raises(
        CellweaveError, match=r"diverged in epoch 1 \(loss nan\); lower the learning rate \(now 0.002\)"
    ):
        run(samples, config(tmp_path), net=Exploding(training=training))
    assert not (tmp_path / "best.pt").exists()


def test_training_stops_early_without_progress(samples: Samples, tmp_path: Path) -> None:
    """With a rate of almost zero nothing gets better but by the batch norms' first steps."""
    net = narrow()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    settings = config(tmp_path, epochs=30, patience=3, learning_rate=1e-12)
    run(samples, settings, net=net)
    epochs = len(log_rows(tmp_path))
    assert epochs < 12
    run(samples, settings, net=net, resume=True)
    assert len(log_rows(tmp_path)) == epochs


def test_the_best_epoch_is_kept_not_the_last(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[dict[str, torch.Tensor]] = []

    def validate(net: nn.Module, *_: Any) -> float:
        judged.append(copy.deepcopy(net.state_dict()))
        return [3.0, 1.0, 2.0, 1.0][len(judged) - 1]

    monkeypatch.setattr(loop, "_validate", validate)
    net = run(samples, config(tmp_path, epochs=4))
    assert_equal_weights(net.state_dict(), judged[1])
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["best_epoch"] == 2


def test_without_validation_images_the_last_epoch_is_kept(samples: Samples, tmp_path: Path) -> None:
    """Losses of an epoch's own crops tell nothing of which epoch is better; patience has nothing to go by either."""
    net = narrow()
    fit(net, DiffusionFlows(), samples, None, config(tmp_path, epochs=3, patience=1))
    with (tmp_path / "log.csv").open(newline="") as stream:
        assert [row["validation_loss"] for row in csv.DictReader(stream)] == ["", "", ""]
    last = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert last["state"]["best_epoch"] == 3
    assert_equal_weights(net.state_dict(), last["averaged"])


def test_where_sums_matter_the_net_learns_as_it_is_used(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 60 % of the epochs on, batch norms take the statistics that were averaged until then."""

    def statistics(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value for name, value in state.items() if "running" in name}

    judged: list[dict[str, torch.Tensor]] = []
    validate = loop._validate
    monkeypatch.setattr(
        loop, "_validate", lambda net, *a: judged.append(copy.deepcopy(net.state_dict())) or validate(net, *a)
    )
    for sums, out in ((False, tmp_path / "a"), (True, tmp_path / "b")):
        monkeypatch.setattr(DiffusionFlows, "sums", sums)
        judged.clear()
        run(samples, config(out, epochs=5))
        trained = torch.load(out / "checkpoint.pt", weights_only=True)["net"]
        settled = [all(torch.equal(trained[n], v) for n, v in statistics(state).items()) for state in judged]
        assert settled == ([False, False, True, True, True] if sums else [False] * 5)
        assert not torch.equal(judged[3]["head.weight"], judged[4]["head.weight"])


@pytest.mark.parametrize(("sums", "best", "left"), [(False, 1, [5.0, 4.0]), (True, 5, [])])
def test_where_sums_matter_the_best_epoch_has_settled_norms(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sums: bool, best: int, left: list[float]
) -> None:
    """And patience begins anew with them."""
    losses = iter([1.0, 3.0, 2.0, 5.0, 4.0])
    monkeypatch.setattr(loop, "_validate", lambda *_: next(losses))
    monkeypatch.setattr(DiffusionFlows, "sums", sums)
    run(samples, config(tmp_path, epochs=5, patience=2))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]
    assert state["best_epoch"] == best
    assert list(losses) == left


def test_judging_takes_a_tenth_of_the_time_at_most(samples: Samples, tmp_path: Path) -> None:
    """Ten views to judge by, 32 crops an epoch that cost three times as much: every second epoch, and the last."""
    fit(narrow(), DiffusionFlows(), samples, samples, config(tmp_path, epochs=5))
    with (tmp_path / "log.csv").open(newline="") as stream:
        losses = [row["validation_loss"] for row in csv.DictReader(stream)]
    assert [loss != "" for loss in losses] == [False, True, False, True, True]
    best = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["best_epoch"]
    assert best == 1 + losses.index(str(min(float(loss) for loss in losses if loss)))


def test_a_full_disk_ends_the_run_readably(samples: Samples, tmp_path: Path, full_disk: Callable[[int], Any]) -> None:
    """The checkpoint, with the optimiser's numbers, is larger than the model."""
    run(samples, config(tmp_path / "a", epochs=1))
    size = (tmp_path / "a" / "checkpoint.pt").stat().st_size
    with full_disk(size - 1000), pytest.raises(WriteError, match=r"checkpoint\.pt"):
        run(samples, config(tmp_path / "b", epochs=1))
    assert not (tmp_path / "b" / "checkpoint.pt").exists()
    assert list((tmp_path / "b").glob(".*")) == []


def test_every_step_is_reported(samples: Samples, tmp_path: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    with showing(lambda *state: told.append(state)):
        run(samples, config(tmp_path, epochs=2))
    total = 2 * FEWEST_STEPS
    steps = [(done, all_) for task, done, all_, note in told if task == "training" and "loss" in note]
    assert steps == [(k, total) for k in range(1, total + 1)]
    assert sum("validating" in note for *_, note in told) == 2
    assert ("preparing the validation", 2, 2, "") in told
    assert "epoch 2/2 loss" in told[-2][3]
    assert "patches/s, data wait" in told[-2][3]


def test_an_epoch_shows_as_many_crops_as_images(tmp_path: Path, samples: Samples) -> None:
    many = joined([samples] * 8)
    for accumulate in (1, 2):
        told: list[int] = []
        settings = config(tmp_path, epochs=1, batch_size=2, accumulate=accumulate, crop=32, overwrite=True)
        with showing(lambda task, done, total, note, told=told: told.append(total) if task == "training" else None):
            fit(narrow(), DiffusionFlows(), many, None, settings)
        assert set(told) == {len(samples) * 8 // 2 // accumulate}


def test_the_networks_of_cellpose_can_be_trained(samples: Samples, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = CellposeUNet(widths=(4, 6, 8))
    before = copy.deepcopy(net.state_dict())
    run(samples, config(tmp_path, epochs=1, recipe="sgd", learning_rate=0.05), net=net)
    assert any(not torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("epochs", [100, 500])
def test_the_papers_schedule(epochs: int, tmp_path: Path) -> None:
    """Warmed up over 10 epochs, then constant, halved every 10 epochs after 70 % of them."""
    settings = config(tmp_path, recipe="sgd", epochs=epochs, learning_rate=0.2)
    assert rate_at(settings, 0) == 0
    assert rate_at(settings, 5) == pytest.approx(0.1)
    for epoch in (10, 30, 0.7 * epochs - 0.01):
        assert rate_at(settings, epoch) == 0.2
    for k in range(round(0.3 * epochs / 10)):
        for inside in (0.01, 9.99):
            assert rate_at(settings, 0.7 * epochs + 10 * k + inside) == pytest.approx(0.2 * 0.5 ** (k + 1))


def test_short_runs_warm_up_for_a_tenth(tmp_path: Path) -> None:
    settings = config(tmp_path, recipe="sgd", epochs=20, learning_rate=0.2)
    assert rate_at(settings, 1) == pytest.approx(0.1)
    assert rate_at(settings, 2) == 0.2


@pytest.mark.parametrize("epochs", [1, 10, 100, 1000])
def test_adams_rate_falls_by_steps(epochs: int, tmp_path: Path) -> None:
    settings = config(tmp_path, recipe="adam", epochs=epochs)
    assert settings.peak_rate == 0.005
    warm = min(3, 0.05 * epochs)
    assert rate_at(settings, warm / 2) == pytest.approx(0.0025)
    for first, last, share in ((warm, 0.599, 1), (0.6, 0.849, 0.1), (0.85, 1, 0.01)):
        for epoch in (first if first == warm else first * epochs, last * epochs):
            assert rate_at(settings, epoch) == pytest.approx(0.005 * share)


@pytest.mark.parametrize("epochs", [1, 10, 100, 1000])
def test_the_rate_is_warmed_up_constant_and_falls_as_a_cosine(epochs: int, tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=epochs, learning_rate=0.01)
    warm, settled = min(3, 0.05 * epochs), SETTLED * epochs
    points = np.linspace(0, epochs, 1001)
    rates = np.array([rate_at(settings, e) for e in points])
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rate_at(settings, warm / 2) == pytest.approx(0.005)
    assert (rates[(points >= warm) & (points <= settled)] == 0.01).all()
    assert rate_at(settings, (settled + epochs) / 2) == pytest.approx(0.005)
    assert (np.diff(rates[points >= warm]) <= 0).all()


def test_fine_tuning_starts_at_a_tenth_of_the_rate(tmp_path: Path) -> None:
    assert config(tmp_path).peak_rate == 0.002
    assert config(tmp_path, recipe="sgd").peak_rate == 0.001
    assert config(tmp_path, base="default").peak_rate == pytest.approx(0.0002)
    assert config(tmp_path, base="default", learning_rate=0.3).peak_rate == 0.3


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"epochs": 2.5},
        {"epochs": "3"},
        {"batch_size": 0},
        {"accumulate": 0},
        {"reuse": 0},
        {"crop": 100},
        {"crop": 16},
        {"crop": 64.0},
        {"recipe": "lion"},
        {"net": "ResNet"},
        {"representation": "Boxes"},
        {"learning_rate": 0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"diameter": 1},
        {"diameter": float("inf")},
        {"validation": 1.0},
        {"simulated": 1.0},
        {"simulated": -0.1},
        {"recipes": ("yeast",)},
        {"weights": {"a": -1.0}},
        {"patience": 0},
        {"seed": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(options))} "):
        config(tmp_path, **options)


def test_settings_are_saved_as_they_were_given(tmp_path: Path) -> None:
    settings = config(tmp_path, patience=3, weights={"a": 0.25}, simulated=0.5, recipes=["yeast", "blood"], diameter=9)
    assert TrainConfig.from_json(settings.to_json()) == settings
    with pytest.raises(InputError, match="settings name tempo, which this cellweave does not know"):
        TrainConfig.from_json(json.dumps({"out": "x", "tempo": 3}))
