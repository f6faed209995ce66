"""The training loop: batches from a background thread, a checkpoint each epoch, the best model kept."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cellweave.core.device import choose_device, inference_dtype
from cellweave.core.errors import CellweaveError, InputError, MissingExtraError, require
from cellweave.core.files import write_atomically
from cellweave.core.progress import report
from cellweave.models import Segmenter
from cellweave.representations import Representation
from cellweave.train.augment import batch, sampling_weights
from cellweave.train.config import TrainConfig, rate_at
from cellweave.train.samples import Sample

log = logging.getLogger(__name__)

CHECKPOINT, LOG, BEST = "checkpoint.pt", "log.csv", "best"
VIEWS_TO_VALIDATE = 2
FEWEST_STEPS = 8


@dataclass
class _State:
    """What a checkpoint holds besides net and optimiser."""

    epoch: int = 0
    best_loss: float = float("inf")
    best_epoch: int = 0


def fit(
    segmenter: Segmenter,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    config: TrainConfig,
    *,
    resume: bool,
) -> Segmenter:
    """Train `segmenter.net` and return the segmenter with the weights of the best epoch (least validation loss).

    Every epoch writes `checkpoint.pt`, a row of `log.csv` (and TensorBoard events where that package is installed)
    and, when it is the best so far, the model folder `best`. With `resume`, training goes on after the last whole
    epoch; because each batch depends on the seed and its own number only, the result is that of an unbroken run.

    Raises
    ------
    CellweaveError
        When the loss is not finite, with what to do about it.
    """
    device = choose_device(config.device)
    net = segmenter.net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = _optimiser(net, config)
    state = _resume(config.out / CHECKPOINT, net, optimiser, config) if resume else _State()
    if not resume:
        (config.out / LOG).unlink(missing_ok=True)
    steps = max(FEWEST_STEPS, len(training) // config.batch_size)
    weights = sampling_weights([s.group for s in training])
    events = _events(config.out)
    fixed = _validation_batches(validation, config, segmenter.representation)
    if not (config.out / BEST).is_dir():
        state.best_loss = float("inf")

    for epoch in range(state.epoch, config.epochs):
        if config.patience and state.epoch - state.best_epoch >= config.patience:
            log.info("stopped early: no better validation loss for %d epochs", config.patience)
            break
        start = time.monotonic()
        losses = []
        net.train()
        batches = _batches(training, weights, config, epoch, steps, segmenter.representation)
        for step, (planes, maps) in enumerate(batches):
            for group in optimiser.param_groups:
                group["lr"] = rate_at(config, epoch + step / steps)
            loss = _loss(net, segmenter.representation, planes, maps, device)
            losses.append(float(loss.detach()))
            _check(losses[-1], epoch, config)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            done = epoch * steps + step + 1
            note = f"epoch {epoch + 1}/{config.epochs} loss {np.mean(losses[-50:]):.3f} best {state.best_loss:.3f}"
            report("training", done, config.epochs * steps, note)
        validation_loss = float(np.mean(losses))
        if fixed:
            tell = partial(report, "training", (epoch + 1) * steps, config.epochs * steps)
            validation_loss = _validate(net, segmenter.representation, fixed, device, tell)
            _check(validation_loss, epoch, config)
        state.epoch = epoch + 1
        if validation_loss < state.best_loss:
            state.best_loss, state.best_epoch = validation_loss, epoch + 1
            segmenter.save(config.out / BEST)
        _save_checkpoint(config.out / CHECKPOINT, net, optimiser, state, config)
        row = {
            "epoch": epoch + 1,
            "training_loss": round(float(np.mean(losses)), 5),
            "validation_loss": round(validation_loss, 5),
            "learning_rate": optimiser.param_groups[0]["lr"],
            "seconds": round(time.monotonic() - start, 2),
        }
        _append(config.out / LOG, row)
        if events is not None:
            for name in ("training_loss", "validation_loss", "learning_rate"):
                events.add_scalar(name, row[name], epoch + 1)
    if events is not None:
        events.close()
    return Segmenter.load(config.out / BEST)


def _check(loss: float, epoch: int, config: TrainConfig) -> None:
    if not math.isfinite(loss):
        raise CellweaveError(
            f"training diverged in epoch {epoch + 1} (loss {loss}); lower the learning rate "
            f"(now {config.peak_rate:g}) and start again"
        )


def _optimiser(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [p for p in net.parameters() if p.requires_grad]
    if config.recipe == "sgd":
        return torch.optim.SGD(parameters, lr=config.peak_rate, momentum=0.9, nesterov=True, weight_decay=1e-5)
    return torch.optim.AdamW(parameters, lr=config.peak_rate, weight_decay=1e-2)


def _loss(
    net: nn.Module,
    representation: Representation,
    planes: torch.Tensor,
    maps: torch.Tensor,
    device: torch.device,
) -> torch.Tensor:
    dtype = inference_dtype(device)
    planes = planes.to(device, memory_format=torch.channels_last)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        outputs = net(planes).maps
    return representation.loss(outputs.float(), maps.to(device))


def _batches(
    samples: Sequence[Sample],
    weights: Any,
    config: TrainConfig,
    epoch: int,
    steps: int,
    representation: Representation,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of one epoch, made two ahead in a thread; batch k depends on (seed, epoch, k) only."""

    def make(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([config.seed, epoch, step])
        chosen = rng.choice(len(samples), config.batch_size, p=weights)
        return batch([samples[i] for i in chosen], config.crop, (config.seed, epoch, step), representation)

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead: list[Future[tuple[torch.Tensor, torch.Tensor]]] = [pool.submit(make, k) for k in range(min(2, steps))]
        for step in range(steps):
            current = ahead.pop(0)
            if step + 2 < steps:
                ahead.append(pool.submit(make, step + 2))
            yield current.result()


def _validation_batches(
    samples: Sequence[Sample], config: TrainConfig, representation: Representation
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Fixed views, the same in every epoch and every run, without changes of contrast."""
    views = [s for s in samples for _ in range(VIEWS_TO_VALIDATE)]
    size = config.batch_size
    batches = []
    for k in range(0, len(views), size):
        report("preparing the validation", k, len(views))
        batches.append(batch(views[k : k + size], config.crop, (2**31, k), representation, contrast=False))
    if views:
        report("preparing the validation", len(views), len(views))
    return batches


@torch.inference_mode()
def _validate(
    net: nn.Module,
    representation: Representation,
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
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


def _save_checkpoint(
    path: Path, net: nn.Module, optimiser: torch.optim.Optimizer, state: _State, config: TrainConfig
) -> None:
    content = {
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "state": vars(state),
        "config": config.model_dump_json(),
    }
    data = io.BytesIO()  # torch's own writer does not tell when the disk is full
    torch.save(content, data)
    write_atomically(path, lambda temporary: temporary.write_bytes(data.getbuffer()))


def _resume(path: Path, net: nn.Module, optimiser: torch.optim.Optimizer, config: TrainConfig) -> _State:
    """Load the last checkpoint.

    Raises
    ------
    InputError
        When there is none, it cannot be read, or the run was started with other settings.
    """
    if not path.is_file():
        raise InputError(f"nothing to resume: there is no {path}; start without --resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        before, now = json.loads(content["config"]), json.loads(config.model_dump_json())
        changed = [k for k in now if k not in ("out", "device") and before.get(k) != now[k]]
        if not changed:
            net.load_state_dict(content["net"])
            optimiser.load_state_dict(content["optimiser"])
            return _State(**content["state"])
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise InputError(f"{path} is damaged ({type(error).__name__}); start again without --resume") from error
    raise InputError(
        f"{path} was started with other settings ({', '.join(f'{k}={before.get(k)}' for k in changed)}); "
        "resume with the same ones, or start a new run in another folder"
    )


def _append(path: Path, row: dict[str, Any]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    if path.exists():
        text.write(path.read_text(encoding="utf-8"))
    else:
        writer.writeheader()
    writer.writerow(row)
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))


def _events(folder: Path) -> Any:
    """TensorBoard writer, or None where tensorboard is not installed (extra `tensorboard`)."""
    try:
        require("tensorboard", extra="tensorboard")
    except MissingExtraError as error:
        log.info("no TensorBoard events are written: %s", error)
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))
