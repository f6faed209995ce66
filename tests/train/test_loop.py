"""The training loop: it learns, it can be stopped at any moment and goes on to the same weights."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cellweave.core.errors import CellweaveError, InputError, WriteError
from cellweave.core.image import Image
from cellweave.core.progress import showing
from cellweave.models import Segmenter
from cellweave.nets import CellposeUNet, FastUNet
from cellweave.prep import Channels, Normalisation
from cellweave.representations import DiffusionFlows
from cellweave.train.config import TrainConfig, rate_at
from cellweave.train.loop import FEWEST_STEPS, fit
from cellweave.train.samples import Example, Preparation, Sample, prepare


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are added in one order, in this process and in others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, domes: Callable[..., Any]) -> list[Sample]:
    """Five pictures of bright domes, prepared."""
    made = [domes(k, (90, 100), 6) for k in range(5)]
    examples = [Example(str(k), Image(picture[None]), labels) for k, (picture, labels) in enumerate(made)]
    preparation = Preparation(24.0, Channels(), Normalisation(), DiffusionFlows())
    return prepare(examples, preparation, tmp_path_factory.mktemp("cache"))


def config(out: Path, **options: Any) -> TrainConfig:
    return TrainConfig(out=out, **{"epochs": 3, "batch_size": 4, "crop": 64, "device": "cpu", **options})


def narrow(seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    return Segmenter(FastUNet(widths=(4, 8, 8, 8)), DiffusionFlows(), 24.0)


def run(
    samples: list[Sample], settings: TrainConfig, *, resume: bool = False, model: Segmenter | None = None
) -> Segmenter:
    settings.out.mkdir(parents=True, exist_ok=True)
    return fit(model or narrow(), samples[:4], samples[4:], settings, resume=resume)


def log_rows(out: Path) -> list[dict[str, float]]:
    with (out / "log.csv").open(newline="") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def assert_equal_nets(a: Segmenter, b: Segmenter) -> None:
    others = b.net.state_dict()
    for name, value in a.net.state_dict().items():
        assert torch.equal(value, others[name]), name


def test_training_lowers_the_loss(samples: list[Sample], tmp_path: Path) -> None:
    model = run(samples, config(tmp_path, epochs=8, learning_rate=0.01))
    rows = log_rows(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert rows[-1]["training_loss"] < 0.6 * rows[0]["training_loss"]
    assert min(row["validation_loss"] for row in rows) < 0.6 * rows[0]["validation_loss"]
    assert not model.net.training


def test_what_a_run_leaves(samples: list[Sample], tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=2)
    model = run(samples, settings)
    assert {"best", "checkpoint.pt", "log.csv"} <= {p.name for p in tmp_path.iterdir()}
    assert_equal_nets(model, Segmenter.load(tmp_path / "best"))
    for row in log_rows(tmp_path):
        assert row.keys() == {"epoch", "training_loss", "validation_loss", "learning_rate", "seconds"}
        steps = FEWEST_STEPS
        assert row["learning_rate"] == pytest.approx(rate_at(settings, row["epoch"] - 1 / steps))
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert json.loads(content["config"])["epochs"] == 2


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed")
def test_tensorboard_sees_every_epoch(samples: list[Sample], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(samples, config(tmp_path, epochs=3))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = log_rows(tmp_path)
    for name in ("training_loss", "validation_loss", "learning_rate"):
        found = events.Scalars(name)
        assert [e.step for e in found] == [1, 2, 3]
        assert [e.value for e in found] == pytest.approx([row[name] for row in rows], rel=1e-4)


def test_without_tensorboard_training_works(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with caplog.at_level("INFO", logger="cellweave"):
        run(samples, config(tmp_path, epochs=1))
    assert "cellweave[tensorboard]" in caplog.text
    assert not (tmp_path / "tensorboard").exists()
    assert len(log_rows(tmp_path)) == 1


def test_the_same_seed_gives_the_same_weights(samples: list[Sample], tmp_path: Path) -> None:
    first, second = (run(samples, config(tmp_path / name, epochs=2)) for name in "ab")
    assert_equal_nets(first, second)
    other = run(samples, config(tmp_path / "c", epochs=2, seed=1))
    assert not torch.equal(other.net.head.weight, first.net.head.weight)  # type: ignore[union-attr, arg-type]


class Stop(Exception):
    """Raised in the middle of a run."""


def stop_at(step: int) -> Callable[..., None]:
    def sink(task: str, done: int, total: int, note: str) -> None:
        if task == "training" and done == step and "validating" not in note:
            raise Stop

    return sink


@pytest.mark.parametrize("recipe", ["adamw", "sgd"])
@pytest.mark.parametrize("step", [2 * FEWEST_STEPS + 3, 2 * FEWEST_STEPS])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    samples: list[Sample], tmp_path: Path, recipe: str, step: int
) -> None:
    """Stopped in the third epoch, or after the last step of the second, before its checkpoint."""
    options: dict[str, Any] = {"epochs": 4, "recipe": recipe, "learning_rate": 0.01}
    unbroken = run(samples, config(tmp_path / "a", **options))
    with pytest.raises(Stop), showing(stop_at(step)):
        run(samples, config(tmp_path / "b", **options))
    whole = (step - 1) // FEWEST_STEPS
    assert len(log_rows(tmp_path / "b")) == whole
    resumed = run(samples, config(tmp_path / "b", **options), resume=True, model=narrow(seed=9))
    assert_equal_nets(resumed, unbroken)
    a, b = log_rows(tmp_path / "a"), log_rows(tmp_path / "b")
    for name in ("epoch", "training_loss", "validation_loss", "learning_rate"):
        assert [row[name] for row in a] == [row[name] for row in b]
    assert resumed.hash == unbroken.hash


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from cellweave.models import Segmenter
from cellweave.nets import FastUNet
from cellweave.representations import DiffusionFlows
from cellweave.train.config import TrainConfig
from cellweave.train.loop import fit
from cellweave.train.samples import Sample
import numpy as np
out, *files = sys.argv[1:]
torch.manual_seed(0)
model = Segmenter(FastUNet(widths=(4, 8, 8, 8)), DiffusionFlows(), 24.0)
weights = np.array([[1], [0]], np.float32)
samples = [Sample(Path(f).stem, "", Path(f), weights, False) for f in files]
settings = TrainConfig(out=Path(out), epochs=200, batch_size=4, crop=64, device="cpu")
fit(model, samples[:4], samples[4:], settings, resume=False)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_a_killed_process_loses_no_whole_epoch(samples: list[Sample], tmp_path: Path) -> None:
    """SIGKILL, which nobody can catch, somewhere in an epoch; then --resume."""
    command = [sys.executable, "-c", KILLED, tmp_path / "out", *(s.file for s in samples)]
    (tmp_path / "out").mkdir()
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if (tmp_path / "out" / "log.csv").exists() and len(log_rows(tmp_path / "out")) >= 2:
                break
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    content = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    epochs = content["state"]["epoch"]
    assert epochs >= 2
    settings = config(tmp_path / "out", epochs=200)
    reached: list[str] = []

    def sink(task: str, done: int, total: int, note: str) -> None:
        if task == "training":
            reached.append(note)
            if done == (epochs + 1) * FEWEST_STEPS + 2:
                raise Stop

    with pytest.raises(Stop), showing(sink):
        run(samples, settings, resume=True, model=narrow(seed=9))
    assert reached[0].startswith(f"epoch {epochs + 1}/200")
    assert epochs + 1 in [row["epoch"] for row in log_rows(tmp_path / "out")]
    assert Segmenter.load(tmp_path / "out" / "best").hash


def test_nothing_to_resume(samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing to resume: there is no .*checkpoint\.pt; start without --resume"):
        run(samples, config(tmp_path), resume=True)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other keys", "not a dict", "config", "state", "net"])
def test_a_damaged_checkpoint_is_told(samples: list[Sample], tmp_path: Path, damage: str) -> None:
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


def test_a_checkpoint_runs_no_code(samples: list[Sample], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"config": "{}", "net": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="is damaged"):
        run(samples, config(tmp_path), resume=True)
    assert not (tmp_path / "ran").exists()


def test_resuming_with_other_settings_is_refused(samples: list[Sample], tmp_path: Path) -> None:
    run(samples, config(tmp_path, epochs=1))
    with pytest.raises(InputError, match=r"other settings \(epochs=1, crop=64\)"):
        run(samples, config(tmp_path, epochs=2, crop=96), resume=True)
    run(samples, config(tmp_path, epochs=1, device="auto"), resume=True)  # the device may change


def test_a_finished_run_can_be_resumed(samples: list[Sample], tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=2)
    first = run(samples, settings)
    again = run(samples, settings, resume=True, model=narrow(seed=9))
    assert_equal_nets(first, again)
    assert len(log_rows(tmp_path)) == 2


def test_a_new_run_in_an_old_folder_starts_from_scratch(samples: list[Sample], tmp_path: Path) -> None:
    run(samples, config(tmp_path, epochs=3, learning_rate=0.01))
    fresh = run(samples, config(tmp_path, epochs=1))
    assert len(log_rows(tmp_path)) == 1
    assert_equal_nets(fresh, run(samples, config(tmp_path / "other", epochs=1)))


class Exploding(FastUNet):
    """Its outputs become NaN after some batches, in training or only when it is evaluated."""

    def __init__(self, *, training: bool) -> None:
        super().__init__(widths=(2, 2, 2, 2))
        self.when, self.calls = training, 0

    def forward(self, x: torch.Tensor) -> Any:
        self.calls += 1
        output = super().forward(x)
        if self.training == self.when and self.calls > 5:
            return output._replace(maps=output.maps * float("nan"))
        return output


@pytest.mark.parametrize("training", [True, False])
def test_a_loss_that_is_no_number_ends_the_run(samples: list[Sample], tmp_path: Path, training: bool) -> None:
    model = Segmenter(Exploding(training=training), DiffusionFlows(), 24.0)
    with pytest.raises(
        CellweaveError, match=r"diverged in epoch 1 \(loss nan\); lower the learning rate \(now 0.002\)"
    ):
        run(samples, config(tmp_path), model=model)
    assert not (tmp_path / "best").exists()


def test_training_stops_early_without_progress(samples: list[Sample], tmp_path: Path) -> None:
    """With a rate of almost zero nothing gets better but by the batch norms' first steps."""
    model = narrow()
    for module in model.net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    settings = config(tmp_path, epochs=30, patience=3, learning_rate=1e-12)
    run(samples, settings, model=model)
    epochs = len(log_rows(tmp_path))
    assert epochs < 12
    run(samples, settings, model=model, resume=True)
    assert len(log_rows(tmp_path)) == epochs


def test_the_best_epoch_is_kept_not_the_last(samples: list[Sample], tmp_path: Path) -> None:
    """A rate that ruins the net after a while."""
    model = run(samples, config(tmp_path, epochs=6, recipe="sgd", learning_rate=3.0))
    rows = log_rows(tmp_path)
    losses = [row["validation_loss"] for row in rows]
    assert losses[-1] > min(losses)
    last = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert last["state"]["best_epoch"] == 1 + losses.index(min(losses))
    assert not torch.equal(model.net.head.weight, last["net"]["head.weight"])  # type: ignore[union-attr, arg-type]


def test_without_validation_images_the_training_loss_decides(samples: list[Sample], tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    fit(narrow(), samples, [], config(tmp_path, epochs=2), resume=False)
    assert all(row["training_loss"] == row["validation_loss"] for row in log_rows(tmp_path))


def test_a_full_disk_ends_the_run_readably(
    samples: list[Sample], tmp_path: Path, full_disk: Callable[[int], Any]
) -> None:
    """The checkpoint, with the optimiser's numbers, is larger than the model."""
    run(samples, config(tmp_path / "a", epochs=1))
    size = (tmp_path / "a" / "checkpoint.pt").stat().st_size
    with full_disk(size - 1000), pytest.raises(WriteError, match=r"checkpoint\.pt"):
        run(samples, config(tmp_path / "b", epochs=1))
    assert not (tmp_path / "b" / "checkpoint.pt").exists()
    assert list((tmp_path / "b").glob(".*")) == []


def test_every_step_is_reported(samples: list[Sample], tmp_path: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    with showing(lambda *state: told.append(state)):
        run(samples, config(tmp_path, epochs=2))
    total = 2 * FEWEST_STEPS
    steps = [(done, all_) for task, done, all_, note in told if task == "training" and "loss" in note]
    assert steps == [(k, total) for k in range(1, total + 1)]
    assert sum("validating" in note for *_, note in told) == 2
    assert ("preparing the validation", 0, 2, "") in told
    assert "epoch 2/2 loss" in told[-2][3]


def test_an_epoch_shows_as_many_crops_as_images(tmp_path: Path, samples: list[Sample]) -> None:
    told: list[int] = []
    with showing(lambda task, done, total, note: told.append(total) if task == "training" else None):
        fit(narrow(), samples * 5, [], config(tmp_path, epochs=1, batch_size=2), resume=False)
    assert set(told) == {len(samples) * 5 // 2}


def test_the_networks_of_cellpose_can_be_trained(samples: list[Sample], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Segmenter(CellposeUNet(widths=(4, 6, 8)), DiffusionFlows(), 30.0)
    trained = run(samples, config(tmp_path, epochs=1, recipe="sgd", learning_rate=0.05), model=model)
    assert isinstance(trained.net, CellposeUNet)


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
def test_the_cosine_schedule(epochs: int, tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=epochs, learning_rate=0.01)
    warm = min(3, 0.05 * epochs)
    rates = [rate_at(settings, e) for e in np.linspace(0, epochs, 1001)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(0.01, rel=1e-3)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rate_at(settings, warm) == 0.01
    assert rate_at(settings, (warm + epochs) / 2) == pytest.approx(0.005)
    after = [r for e, r in zip(np.linspace(0, epochs, 1001), rates, strict=True) if e >= warm]
    assert (np.diff(after) <= 0).all()


def test_fine_tuning_starts_at_a_tenth_of_the_rate(tmp_path: Path) -> None:
    assert config(tmp_path).peak_rate == 0.002
    assert config(tmp_path, recipe="sgd").peak_rate == 0.001
    assert config(tmp_path, base="default").peak_rate == pytest.approx(0.0002)
    assert config(tmp_path, base="default", learning_rate=0.3).peak_rate == 0.3


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"crop": 100},
        {"crop": 16},
        {"recipe": "adam"},
        {"net": "ResNet"},
        {"learning_rate": 0},
        {"learning_rate": -1.0},
        {"diameter": 1},
        {"validation": 1.0},
        {"patience": 0},
        {"epoch": 3},
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        config(tmp_path, **options)
