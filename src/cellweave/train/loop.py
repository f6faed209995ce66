"""The training loop: batches from a background thread, averaged weights, checkpoints, the best weights kept.

It imports nothing but PyTorch, NumPy and the plain parts of cellweave, so that it also runs where nothing else is
installed (`cellweave.train.bare`).
"""

from __future__ import annotations

import copy
import csv
import io
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cellweave.core.device import autocast, choose_device, keep_freed_memory
from cellweave.core.errors import CellweaveError, InputError, MissingExtraError, require
from cellweave.core.files import write_atomically
from cellweave.core.progress import report
from cellweave.representations import MapFormat
from cellweave.train import ranks
from cellweave.train.config import SETTLED, TrainConfig, rate_at
from cellweave.train.samples import Samples
from cellweave.train.source import Batch, Source, Stream, fixed_batches

log = logging.getLogger(__name__)

CHECKPOINT, LOG, BEST = "checkpoint.pt", "log.csv", "best.pt"
FEWEST_STEPS = 8
CHECKPOINT_SECONDS = 120.0
LOSSES_HELD = 16
"""Steps whose losses an accelerator may hold back, so that it need not wait for the processor at each."""
JUDGING = 10 / 3
"""A training step takes about three times as long as judging as many crops, and judging should take a tenth at most."""
LARGEST_NORM = 5.0
STEEPEST = 4.0
"""A gradient is shortened to this many times its usual norm: Adam makes of one that is longer a leap in all weights."""
USUAL = 0.99
"""The usual norm is that of about the last 1 / (1 - this) steps."""
AVERAGED = 0.999
"""Weights are averaged over about the last 1 / (1 - this) steps, over fewer at the start."""

OTHER_DATA = (
    "{}: images or labels have changed since this run was started; put them back, or start a new run in another folder"
)


@dataclass
class _State:
    """What a checkpoint holds besides net, averages and optimiser."""

    step: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    steps: int = 0
    """Of an epoch."""
    processes: int = 1
    usual_norm: torch.Tensor = field(default_factory=lambda: torch.tensor(math.inf))
    """Scalar: average norm of the last gradients; none so far: infinite."""

    def next_epoch(self) -> None:
        self.loss_sum = self.seconds = self.waited = 0.0


@dataclass
class _Run:
    """The moving parts of one run."""

    net: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.Optimizer
    device: torch.device
    data: dict[str, str]
    """Keys of what is learned from and judged by."""
    state: _State = field(default_factory=_State)


def fit(
    net: nn.Module,
    representation: MapFormat,
    training: Samples,
    validation: Samples | None,
    config: TrainConfig,
    *,
    stream: Stream | None = None,
    resume: bool = False,
) -> None:
    """Train `net` and leave it with the averaged weights of the epoch with the least validation loss.

    Without validation samples it is the last epoch; with so many that judging would take over a tenth of the time, only
    every second, third, ... epoch is judged, and the last. Where sums matter (`MapFormat.sums`), it is one with settled
    batch norms. What is judged and kept is an exponential moving average of the weights that are trained. Every epoch
    writes a row of `log.csv` (and TensorBoard events where that package is installed) and, when it is the best so far,
    `best.pt`; `checkpoint.pt` is written every epoch and every two minutes.
    With `resume`, training goes on at the step of the checkpoint; because each batch depends on the seed and its own
    number only, the result is that of an unbroken run.

    Started by ``torchrun``, every process takes every n-th batch and the gradients are averaged: the steps are those
    of one process with `accumulate` times as many batches. The first process judges, so it alone needs `validation`.

    Raises
    ------
    CellweaveError
        When the loss is not finite, with what to do about it.
    InputError
        When a run cannot be resumed, or would be replaced without `config.overwrite`.
    """
    if not resume:
        check_new(config.out, config)
    device = ranks.join(choose_device(config.device))
    if device.type == "cpu":
        keep_freed_memory()
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = max(FEWEST_STEPS, len(training) // (config.batch_size * config.accumulate * ranks.count()))
    data = {"training": training.key, "validation": "none" if validation is None else validation.key}
    run = _Run(net, copy.deepcopy(net).requires_grad_(False), _optimiser(net, config), device, data)
    run.state.steps, run.state.processes = steps, ranks.count()
    if resume:
        _resume(config.out / CHECKPOINT, run, config)
        steps = run.state.steps
    ranks.wait()
    if ranks.rank() == 0 and not resume:
        for name in (LOG, BEST, CHECKPOINT):
            (config.out / name).unlink(missing_ok=True)
    source = Source(training, config, representation, device, stream)
    fixed: list[Batch] = []
    if validation is not None and ranks.rank() == 0:
        fixed += fixed_batches(validation, config, representation)
    crops = int(ranks.from_first(sum(len(planes) for planes, _ in fixed), device))
    judged_every = max(1, math.ceil(JUDGING * crops / (steps * config.batch_size * config.accumulate)))
    events = _Events(config.out / "tensorboard") if ranks.rank() == 0 else None

    settled = _settled(representation, config)
    for epoch in range(run.state.step // steps, config.epochs):
        if run.state.step == settled * steps:  # before, what was judged used other statistics than it learned with
            run.state.best_loss, run.state.best_epoch = math.inf, epoch
        if config.patience and epoch - run.state.best_epoch >= config.patience:
            log.info("stopped early: no better validation loss for %d epochs", config.patience)
            break
        if run.state.processes != ranks.count():
            raise InputError(
                f"{config.out / CHECKPOINT} was started with {run.state.processes} processes, not {ranks.count()}; "
                "resume with as many, or start a new run in another folder"
            )
        _train_epoch(run, source, config, epoch, steps)
        judged, due = math.inf, (epoch + 1) % judged_every == 0 or epoch + 1 == config.epochs
        if crops and due:
            tell = partial(report, "training", (epoch + 1) * steps, config.epochs * steps)
            judged = _validate(run.averaged, representation, fixed, device, tell) if fixed else 0.0
            judged = ranks.from_first(judged, device)
            _check(judged, epoch, config)
        if not crops or judged < run.state.best_loss:
            run.state.best_loss, run.state.best_epoch = judged, epoch + 1
            save_weights(config.out / BEST, run.averaged.state_dict())
        row = _row(run, config, epoch, steps, judged)
        run.state.next_epoch()
        if ranks.rank() == 0:
            _append(config.out / LOG, row)
            _save_checkpoint(run, config)
        if events is not None:
            events.add(row)
    if events is not None:
        events.close()
    ranks.wait()
    net.load_state_dict(best_weights(config.out))
    net.eval()


def check_new(folder: Path, config: TrainConfig) -> None:
    """Refuse to put a run into a folder that holds one, finished or not.

    Raises
    ------
    InputError
        When there is one, and `config.overwrite` does not allow to replace it.
    """
    if (folder / CHECKPOINT).exists() and not config.overwrite:
        raise InputError(
            f"{folder} holds a run already; go on with it by --resume, replace it by --overwrite, or choose another "
            "folder"
        )


def best_weights(out: Path) -> dict[str, torch.Tensor]:
    """The weights that the run in `out` keeps: those of its best epoch, or of its last one without validation."""
    weights: dict[str, torch.Tensor] = torch.load(out / BEST, map_location="cpu", weights_only=True)
    return weights


def _train_epoch(run: _Run, source: Source, config: TrainConfig, epoch: int, steps: int) -> None:
    """The steps of an epoch that are still to be made."""
    run.net.train()
    averaged_from = 0
    if epoch >= (settled := _settled(source.representation, config)):
        averaged_from = settled * steps
        _settle_norms(run)
    each = config.accumulate * ranks.count()
    numbers = range(run.state.step * each + ranks.rank(), (epoch + 1) * steps * each, ranks.count())
    batches = iter(source.batches(numbers))
    saved = clock = time.monotonic()
    pending: list[torch.Tensor] = []
    while run.state.step < (epoch + 1) * steps:
        for group in run.optimiser.param_groups:
            group["lr"] = rate_at(config, run.state.step / steps)
        run.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=run.device)
        for _ in range(config.accumulate):
            before = time.monotonic()
            planes, maps = next(batches)
            run.state.waited += time.monotonic() - before
            loss = _loss(run.net, source.representation, planes, maps, run.device) / config.accumulate
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        ranks.average(p.grad for p in run.net.parameters() if p.grad is not None)
        _clip(run)
        run.optimiser.step()
        _average(run.averaged, run.net, run.state.step - averaged_from)
        run.state.step += 1
        pending.append(total)
        if run.device.type != "cpu" and len(pending) < LOSSES_HELD and run.state.step % steps:
            continue
        for value in torch.stack(pending).tolist():
            _check(value, epoch, config)
            run.state.loss_sum += value
        pending.clear()
        now = time.monotonic()
        run.state.seconds += now - clock
        clock = now
        if ranks.rank() == 0:
            report("training", run.state.step, config.epochs * steps, _note(run, config, epoch, steps))
            if now - saved > CHECKPOINT_SECONDS and run.state.step % steps:
                _save_checkpoint(run, config)
                saved = now


@torch.no_grad()
def _clip(run: _Run) -> None:
    """Shorten a gradient that is longer than it may ever be, or than it usually is."""
    gradients = [p.grad for p in run.net.parameters() if p.grad is not None]
    norm, usual = torch.stack(torch._foreach_norm(gradients)).norm(), run.state.usual_norm
    limit = torch.clamp(STEEPEST * usual, max=LARGEST_NORM)
    torch._foreach_mul_(gradients, torch.clamp(limit / (norm + 1e-6), max=1.0))
    kept = torch.minimum(norm, limit)
    run.state.usual_norm = torch.where(torch.isinf(usual), kept, torch.lerp(kept, usual, USUAL))


def _note(run: _Run, config: TrainConfig, epoch: int, steps: int) -> str:
    done = run.state.step - epoch * steps
    rate, waited = _throughput(run, config, done)
    best = f"best {run.state.best_loss:.3f} " if math.isfinite(run.state.best_loss) else ""
    return (
        f"epoch {epoch + 1}/{config.epochs} loss {run.state.loss_sum / done:.3f} {best}"
        f"{rate:.0f} patches/s, data wait {waited:.0f} %"
    )


def _throughput(run: _Run, config: TrainConfig, steps: int) -> tuple[float, float]:
    """Patches a second over `steps` steps of all processes, and the share of the time spent waiting for data in %."""
    seconds = max(run.state.seconds, 1e-9)
    patches = steps * config.batch_size * config.accumulate * ranks.count()
    return patches / seconds, 100 * run.state.waited / seconds


def _row(run: _Run, config: TrainConfig, epoch: int, steps: int, judged: float) -> dict[str, Any]:
    rate, waited = _throughput(run, config, steps)
    return {
        "epoch": epoch + 1,
        "training_loss": round(run.state.loss_sum / steps, 5),
        "validation_loss": round(judged, 5) if math.isfinite(judged) else None,
        "learning_rate": run.optimiser.param_groups[0]["lr"],
        "seconds": round(run.state.seconds, 2),
        "patches_per_second": round(rate, 2),
        "data_wait_percent": round(waited, 2),
    }


def _settled(representation: MapFormat, config: TrainConfig) -> int:
    """The first epoch with settled batch norms, where sums matter; else the number of epochs."""
    return math.ceil(SETTLED * config.epochs) if representation.sums else config.epochs


@torch.no_grad()
def _settle_norms(run: _Run) -> None:
    """Let batch norms take the averaged statistics, as they do in use.

    In training they take the mean and variance of the batch, which tell how much is in it. A net that is used without
    them is off by some percent in all images: too little to harm outlines, too much for a sum (Wu and Johnson 2021,
    *Rethinking "Batch" in BatchNorm*). So it learns without them in the end, and its weights are averaged anew. All
    processes take the same statistics, the mean of those that they have seen.
    """
    norms = [one for one in run.averaged.modules() if isinstance(one, nn.BatchNorm2d)]
    ranks.average(value for norm in norms for value in norm.buffers() if value.is_floating_point())
    for mine, averaged in zip(run.net.modules(), run.averaged.modules(), strict=True):
        if isinstance(mine, nn.BatchNorm2d):
            for own, value in zip(mine.buffers(), averaged.buffers(), strict=True):
                own.copy_(value)
            mine.eval()


@torch.no_grad()
def _average(averaged: nn.Module, net: nn.Module, step: int) -> None:
    """``a <- d a + (1 - d) w`` with d growing to `AVERAGED`, also for the statistics of the batch norms."""
    keep = min(AVERAGED, (1 + step) / (10 + step))
    mine, theirs = averaged.state_dict(), net.state_dict()
    floats = [name for name, value in mine.items() if value.is_floating_point()]
    torch._foreach_lerp_([mine[n] for n in floats], [theirs[n] for n in floats], 1 - keep)
    for name in mine.keys() - set(floats):
        mine[name].copy_(theirs[name])


def _check(loss: float, epoch: int, config: TrainConfig) -> None:
    if not math.isfinite(loss):
        raise CellweaveError(
            f"training diverged in epoch {epoch + 1} (loss {loss}); lower the learning rate "
            f"(now {config.peak_rate:g}) and start again"
        )


def _optimiser(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [p for p in net.parameters() if p.requires_grad]
    if config.recipe in ("sgd", "cosine"):
        return torch.optim.SGD(parameters, lr=config.peak_rate, momentum=0.9, nesterov=True, weight_decay=1e-5)
    if config.recipe == "adam":
        return torch.optim.Adam(parameters, lr=config.peak_rate)
    return torch.optim.AdamW(parameters, lr=config.peak_rate, weight_decay=1e-2)


def _loss(
    net: nn.Module, representation: MapFormat, planes: torch.Tensor, maps: torch.Tensor, device: torch.device
) -> torch.Tensor:
    planes = planes.to(device, memory_format=torch.channels_last)
    with autocast(device):
        output = net(planes)
    return representation.loss(output, maps.to(device))


@torch.inference_mode()
def _validate(
    net: nn.Module,
    representation: MapFormat,
    batches: Sequence[Batch],
    device: torch.device,
    tell: Callable[[str], None],
) -> float:
    net.eval()
    total, done = 0.0, 0
    for planes, maps in batches:
        total += float(_loss(net, representation, planes, maps, device)) * len(planes)
        done += len(planes)
        tell(f"validating, {done} crops")
    return total / done


def _save_checkpoint(run: _Run, config: TrainConfig) -> None:
    content = {
        "net": run.net.state_dict(),
        "averaged": run.averaged.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "state": vars(run.state),
        "config": config.to_json(),
        "data": run.data,
    }
    save_weights(config.out / CHECKPOINT, content)


def save_weights(path: Path, content: dict[str, Any]) -> None:
    """Write tensors with torch, whole or not at all; only the first process does."""
    if ranks.rank() == 0:
        data = io.BytesIO()  # torch's own writer does not tell when the disk is full
        torch.save(content, data)
        write_atomically(path, lambda temporary: temporary.write_bytes(data.getbuffer()))


def _resume(path: Path, run: _Run, config: TrainConfig) -> None:
    """Load the last checkpoint.

    Raises
    ------
    InputError
        When there is none, it cannot be read, or the run was started with other settings or images. Only `out` and
        `device` may change, and `epochs` as long as the learning rate is at its peak, by the old number and by the new
        one.
    """
    if not path.is_file():
        raise InputError(f"nothing to resume: there is no {path}; start without --resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        before, now = (
            json.loads(TrainConfig.from_json(text).to_json()) for text in (content["config"], config.to_json())
        )
        changed = {k for k in now if k not in ("out", "device") and before.get(k) != now[k]}
        if changed == {"epochs"} and _both_at_peak(TrainConfig(**before), config, content["state"]):
            changed = set()
        keys = content.get("data", {})  # a checkpoint of before, and shards, have none
        other_data = ranks.rank() == 0 and any(keys.get(part) and k and keys[part] != k for part, k in run.data.items())
        if not changed and not other_data:
            run.net.load_state_dict(content["net"])
            run.averaged.load_state_dict(content["averaged"])
            run.optimiser.load_state_dict(content["optimiser"])
            run.state = _State(**content["state"])
            return
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise InputError(f"{path} is damaged ({type(error).__name__}); start again without --resume") from error
    if not changed:
        raise InputError(OTHER_DATA.format(path))
    raise InputError(
        f"{path} was started with other settings ({', '.join(f'{k}={before.get(k)}' for k in sorted(changed))}); "
        "resume with the same ones, or start a new run in another folder"
    )


def _both_at_peak(before: TrainConfig, now: TrainConfig, state: dict[str, Any]) -> bool:
    """Whether a training of either length would have the peak rate at this step: then one may become the other."""
    epoch = state["step"] / state["steps"]
    peaks = (rate_at(config, epoch) >= config.peak_rate for config in (before, now))
    return before.recipe == "adamw" and epoch < now.epochs and all(peaks)


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add a row; one of the same epoch is from before an interruption, and replaced."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    writer.writeheader()
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            writer.writerows(old for old in csv.DictReader(stream) if int(old["epoch"]) < row["epoch"])
    writer.writerow(row)
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))


class _Events:
    """Figures for TensorBoard. They are a help, no result: a training goes on where they cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._writer: Any = None
        try:
            require("tensorboard", extra="tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder))
        except MissingExtraError as error:
            log.info("no TensorBoard events are written: %s", error)
        except OSError as error:
            self._give_up(error)

    def add(self, row: dict[str, Any]) -> None:
        """The figures of an epoch."""
        if self._writer is not None:
            try:
                for name in ("training_loss", "validation_loss", "learning_rate", "patches_per_second"):
                    if row[name] is not None:
                        self._writer.add_scalar(name, row[name], row["epoch"])
                self._writer.flush()
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        log.warning("no TensorBoard events are written any more: %s", error)
