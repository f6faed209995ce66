"""Pictures of the synthetic microscope, drawn and prepared by processes of their own while the net trains.

A worker is this module run as a program: one request a line on its input, one answer of raw bytes on its output.
Processes, because drawing holds Python's lock; own ones instead of `multiprocessing`, because that runs the user's
script again in each.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.progress import report
from cellweave.train.samples import (
    COLOURS,
    LARGEST_ZOOM,
    Example,
    Preparation,
    Samples,
    facts_from,
    joined,
    prepare_one,
)

if TYPE_CHECKING:
    from cellweave.prep import Channels
    from cellweave.simulate import Picture

BLOCK = 128
FIELD = 288
"""Side of a picture in px, once its cells have the training diameter."""
MIX = {
    "nuclei": 0.5,
    "tissue_nuclei": 0.7,
    "whole_cells": 2.0,
    "membranes": 1.3,
    "multi_reporter": 0.7,
    "phase_contrast": 1.6,
    "bacteria": 2.4,
    "filaments": 0.8,
    "yeast": 1.2,
    "dic": 1.4,
    "stained_tissue": 1.2,
    "smears": 0.6,
    "anything": 1.5,
}
"""Weight of each recipe in a training; the others have 1. Kinds with real training images have less."""
USUAL = 24.0
"""Diameter in px around which cells are drawn for a net that learns any size."""
SMALLEST, LARGEST = 8.0, 64.0
"""Cells are drawn with diameters in this range (px), most near the training diameter, then resized to it: pictures
are taken at all resolutions, and resizing leaves its traces."""


@dataclass(frozen=True)
class Order:
    """What a worker draws. Picture k depends on the order and k only."""

    seed: int
    recipes: tuple[str, ...]
    diameter: float
    """0: pictures keep the sizes they are drawn with."""
    planes: int
    normalisation: dict[str, Any]
    representation: tuple[str, dict[str, Any]]

    @classmethod
    def of(cls, preparation: Preparation, seed: int, recipes: tuple[str, ...] = ()) -> Order:
        """The order for samples like those of `preparation`.

        Raises
        ------
        InputError
            When there is no such recipe.
        """
        from cellweave.simulate import RECIPES

        unknown = sorted(set(recipes) - set(RECIPES))
        if unknown:
            raise InputError(f"recipes: there is no '{unknown[0]}'; choose from {', '.join(RECIPES)}")
        representation = preparation.representation
        named = type(representation).__name__, asdict(representation)  # type: ignore[call-overload]
        planes = preparation.channels.planes
        return cls(seed, recipes, preparation.diameter, planes, asdict(preparation.normalisation), named)

    def preparation(self, channels: Channels) -> Preparation:
        """How a picture is prepared: as real ones."""
        from cellweave.prep import Channels, Normalisation
        from cellweave.representations import REPRESENTATIONS

        if self.planes == COLOURS:
            channels = Channels("color", channels.chosen)
        settings = self.normalisation | {"clip": self.normalisation["clip"] and tuple(self.normalisation["clip"])}
        name, parameters = self.representation
        return Preparation(self.diameter, channels, Normalisation(**settings), REPRESENTATIONS[name](**parameters))


def draw(order: Order, k: int) -> Samples:
    """Picture k as a sample; its group is ``simulated/RECIPE``."""
    from cellweave.core.labels import median_diameter

    recipe, picture = draw_picture(order, k)
    diameter = median_diameter(picture.labels)
    zoom = 1.0
    if order.diameter:
        zoom = min(LARGEST_ZOOM, order.diameter / diameter) if diameter else FIELD / max(picture.labels.shape)
    group = f"simulated/{recipe}"
    example = Example(f"{group} {k}", picture.image(), picture.labels, group)
    return prepare_one(example, order.preparation(channels_of(picture)), zoom)


def draw_picture(order: Order, k: int) -> tuple[str, Picture]:
    """The recipe of picture k, and the picture before it is resized."""
    from cellweave.simulate import RECIPES

    rng = np.random.default_rng([order.seed, k])
    names = order.recipes or tuple(RECIPES)
    shares = np.array([1.0 if order.recipes else MIX.get(name, 1.0) for name in names])
    recipe = names[rng.choice(len(names), p=shares / shares.sum())]
    octaves = rng.normal(0, 0.6) if rng.random() < 0.7 else rng.uniform(-2, 2)
    usual = order.diameter or USUAL
    diameter = float(np.clip(usual * 2.0**octaves, SMALLEST, LARGEST))
    side = round(FIELD * diameter / usual)
    return recipe, RECIPES[recipe](rng, (side, side), diameter=diameter).draw()


def channels_of(picture: Picture) -> Channels:
    """What the net is shown of a picture: what is outlined, and the nuclei where they have a channel.

    Nuclei alone where they are outlined; the first channel where there are several others.
    """
    from cellweave.prep import Channels

    if picture.color or len(picture.channel_names) == 1:
        return Channels()
    nuclei = [k for k, name in enumerate(picture.channel_names, 1) if name == "nuclei"]
    if nuclei and picture.scene.target == "nuclei":
        return Channels("gray", (str(nuclei[0]),))
    other = next(k for k in range(1, len(picture.channel_names) + 1) if k not in nuclei)
    return Channels("pair", (str(other), str(nuclei[0]))) if nuclei else Channels("gray", (str(other),))


def drawn(order: Order, numbers: Iterable[int]) -> Samples:
    """Pictures of these numbers as samples, drawn in this process."""
    wanted, parts = list(numbers), []
    for done, k in enumerate(wanted):
        report("simulating pictures", done, len(wanted))
        parts.append(draw(order, k))
    report("simulating pictures", len(wanted), len(wanted))
    return joined(parts)


class Workers:
    """A stream of simulated samples (see `source.Stream`), drawn one block ahead by `count` processes."""

    size: int = BLOCK

    def __init__(self, order: Order, count: int) -> None:
        self._order = order
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers = [_Worker(order) for _ in range(count)]
        for worker in self._workers:
            self._idle.put(worker)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="simulated")
        self._blocks: dict[int, list[Future[Samples]]] = {}

    def block(self, k: int) -> Samples:
        """Samples ``k * size`` to ``(k + 1) * size``; the next block is begun."""
        for wanted in (k, k + 1):
            if wanted not in self._blocks:
                numbers = range(wanted * self.size, (wanted + 1) * self.size)
                self._blocks[wanted] = [self._pool.submit(self._draw, number) for number in numbers]
        drawn = self._blocks.pop(k)
        return joined([future.result() for future in drawn])

    def _draw(self, number: int) -> Samples:
        worker = self._idle.get()
        try:
            return worker.draw(number)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    """One process. Its threads are limited to one: there are as many processes as cores."""

    def __init__(self, order: Order) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cellweave.train.simulated", json.dumps(asdict(order))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )

    def draw(self, number: int) -> Samples:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(f"{number}\n".encode())
            stdin.flush()
            header = json.loads(stdout.readline())
            data = stdout.read(header["bytes"])
            values = np.frombuffer(bytearray(data), np.float16).reshape(header["shape"])
        except (OSError, ValueError) as error:
            raise CellweaveError(
                f"the process that simulates pictures ended at picture {number}: {self._end()}"
            ) from error
        return Samples(values, facts_from([header["fact"]]))

    def _end(self) -> str:
        """Why the process ended: the last line that it wrote, or its exit status."""
        try:
            status = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status == -signal.SIGKILL:
            return "it was killed; perhaps memory ran out"
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        return said or f"exit status {status}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(OSError):  # a request that the process did not read any more
                    stream.close()


def main(order: Order, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more."""
    for line in requests:
        sample = draw(order, int(line))
        header = {
            "bytes": sample.values.nbytes,
            "shape": sample.values.shape,
            "fact": vars(sample.facts[0]),
        }
        answers.write(json.dumps(header).encode() + b"\n")
        answers.write(sample.values.tobytes())
        answers.flush()


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    settings |= {"recipes": tuple(settings["recipes"]), "representation": tuple(settings["representation"])}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C reaches all processes; the one that trains ends this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    main(Order(**settings), sys.stdin.buffer, answers)
