"""Simulated pictures: the same whoever draws them; processes that end when they should, readably."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.labels import median_diameter
from cellweave.prep import Channels, Normalisation
from cellweave.representations import DiffusionFlows
from cellweave.train import simulated
from cellweave.train.samples import COLOURS, Preparation, Samples
from cellweave.train.simulated import Order, Workers, channels_of, draw, draw_picture, drawn

RECIPES = ("bacteria", "nuclei")  # the quickest to draw
PREPARATION = Preparation(24.0, Channels(), Normalisation(), DiffusionFlows())


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workers, "size", 3)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures; not for the processes, which know nothing of it."""
    monkeypatch.setattr(simulated, "FIELD", 96)


@pytest.fixture
def order() -> Order:
    return Order.of(PREPARATION, 5, RECIPES)


def assert_same(a: Samples, b: Samples) -> None:
    assert a.facts == b.facts
    assert np.array_equal(a.values, b.values)


@pytest.mark.usefixtures("small")
def test_a_picture_depends_on_order_and_number_only(order: Order) -> None:
    first, second = draw(order, 3), draw(order, 3)
    assert_same(first, second)
    assert not np.array_equal(draw(order, 4).values[:100], first.values[:100])
    other = draw(Order.of(PREPARATION, 6, RECIPES), 3)
    assert other.values.shape != first.values.shape or not np.array_equal(other.values, first.values)


def test_pictures_have_the_training_diameter_and_the_name_of_their_recipe(order: Order) -> None:
    names = set()
    for k in range(12):
        samples = draw(order, k)
        [fact] = samples.facts
        recipe, picture = draw_picture(order, k)
        assert fact.group == f"simulated/{recipe}"
        names.add(recipe)
        if picture.labels.max() >= 5:
            labels = DiffusionFlows().decode(samples.array(0)[COLOURS:].astype(np.float32))
            assert median_diameter(labels) == pytest.approx(24, rel=0.25)
    assert names == set(RECIPES)


@pytest.mark.usefixtures("small")
def test_every_recipe_can_be_trained_on() -> None:
    from cellweave.simulate import RECIPES as ALL

    for recipe in ALL:
        samples = draw(Order.of(PREPARATION, 1, (recipe,)), 0)
        assert np.isfinite(samples.values).all()
        assert samples.values[:, 0].any() or samples.facts[0].stained


def picture(names: tuple[str, ...], *, color: bool = False, target: str = "cells") -> Any:
    from cellweave.simulate import Picture, Scene

    zero = np.zeros((4, 4), np.int32)
    return Picture(np.zeros((len(names), 4, 4), np.uint8), names, color, zero, zero, Scene(target=target))


@pytest.mark.parametrize(
    ("names", "policy"),
    [
        (("nuclei",), "auto"),
        (("",), "auto"),
        (("cytoplasm", "nuclei"), "pair:1,2"),
        (("nuclei", "membrane"), "pair:2,1"),
        (("reporter", "reporter", "membrane", "nuclei"), "pair:1,4"),
        (("cytoplasm", "reporter", "membrane"), "gray:1"),
    ],
)
def test_the_net_sees_what_is_outlined_and_nuclei(names: tuple[str, ...], policy: str) -> None:
    assert str(channels_of(picture(names))) == policy


def test_channels_of_photographs_and_of_nuclei() -> None:
    assert str(channels_of(picture(("red", "green", "blue"), color=True))) == "auto"
    assert str(channels_of(picture(("cytoplasm", "nuclei"), target="nuclei"))) == "gray:2"


def test_an_unknown_recipe_is_told() -> None:
    with pytest.raises(InputError, match=r"recipes: there is no 'unicorns'; choose from .*yeast"):
        Order.of(PREPARATION, 0, ("yeast", "unicorns"))


def test_workers_draw_what_this_process_draws(order: Order) -> None:
    """Whatever their number, and whichever block is asked for."""
    expected = [drawn(order, range(3 * k, 3 * k + 3)) for k in range(3)]
    for count, blocks in ((1, (1, 2)), (2, (0, 1))):
        with Workers(order, count) as workers:
            for k in blocks:
                assert_same(workers.block(k), expected[k])


def pids(workers: Workers) -> list[int]:
    return [worker._process.pid for worker in workers._workers]


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_dead(processes: list[int], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, processes))


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")


@linux
def test_a_worker_that_is_killed_is_told(order: Order) -> None:
    with Workers(order, 1) as workers:
        workers.block(0)
        os.kill(pids(workers)[0], signal.SIGKILL)
        blocks = map(workers.block, range(1, 4))
        with pytest.raises(CellweaveError, match=r"the process that simulates pictures ended at .*it was killed"):
            list(blocks)


def test_an_error_in_a_worker_is_told_with_its_reason(order: Order) -> None:
    broken = replace(order, recipes=("no such recipe",))
    with Workers(broken, 1) as workers, pytest.raises(CellweaveError, match=r"ended at picture 0: KeyError: 'no such"):
        workers.block(0)


@linux
def test_closing_in_the_middle_of_a_block_leaves_no_process(order: Order) -> None:
    workers = Workers(order, 2)
    processes = pids(workers)
    futures = [workers._pool.submit(workers._draw, k) for k in range(8)]
    workers.close()
    for future in futures:
        assert future.cancelled() or isinstance(future.exception(), (CellweaveError, ValueError))
    for pid in processes:
        assert not Path(f"/proc/{pid}").exists()  # not even a zombie


TRAIN = """
import sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
from cellweave.core.image import Image
from cellweave.core.progress import showing
from cellweave.train import Example, TrainConfig, api, simulated, train
from cellweave.nets import FastUNet
api.NETS = {"FastUNet": lambda **_: FastUNet(widths=(2, 2, 2, 2))}
workers = simulated.Workers
class Told(workers):
    def __init__(self, order, count):
        super().__init__(order, 2)
        print(*(w._process.pid for w in self._workers), flush=True)
    size = 4
api.Workers = Told
labels = np.zeros((64, 64), np.int32)
labels[20:44, 20:44] = 1
examples = [Example("x", Image((labels * 100).astype(np.uint8)[None]), labels)]
def sink(task, done, total, note):
    if task == "training":
        print("step", flush=True)
with showing(sink):
    train(examples, TrainConfig(out=Path(sys.argv[1]), epochs=500, batch_size=2, crop=32, device="cpu", simulated=0.5,
          recipes=("bacteria",), validation=0.0, reuse=1))
"""


DRAW = """
import json, sys
from cellweave.train.simulated import Order, Workers
order = json.loads(sys.argv[1])
if __name__ == "__main__":
    workers = Workers(Order(**order | {"recipes": tuple(order["recipes"])}), 2)
    print(*(w._process.pid for w in workers._workers), flush=True)
    workers.size = 2
    for k in range(1000):
        workers.block(k)
        print("step", flush=True)
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_training_leaves_no_process(tmp_path: Path, how: signal.Signals, order: Order) -> None:
    """Interrupted from the keyboard (all processes of the group hear it), or killed."""
    arguments = [TRAIN, tmp_path] if how == signal.SIGINT else [DRAW, json.dumps(asdict(order))]
    with subprocess.Popen(
        [sys.executable, "-c", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        assert process.stdout.readline() == "step\n"
        assert all(map(alive, workers))
        if how == signal.SIGINT:
            os.killpg(process.pid, how)
        else:
            process.kill()
        process.wait(timeout=60)
        wait_until_dead(workers)
        said = process.stderr.read()
    if how == signal.SIGINT:
        assert said.strip().endswith("KeyboardInterrupt")
