"""Several processes train one model: `torchrun` on one machine, without a GPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from cellweave.core.errors import InputError
from cellweave.models import Segmenter
from cellweave.nets import FastUNet
from cellweave.representations import DiffusionFlows
from cellweave.train import loop, ranks
from cellweave.train.config import TrainConfig
from cellweave.train.samples import load

SECOND = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from cellweave.train import loop, ranks
if ranks.rank() > 0:  # the first process alone writes
    def refuse(*_):
        raise AssertionError("the second process writes")
    loop.write_atomically = loop._Events = refuse
sys.path.insert(0, sys.argv[1])
from test_ranks import fit
out, file = map(Path, sys.argv[2:])
torch.save(fit(out, file), out / f"rank{ranks.rank()}.pt")
ranks.leave()
"""

WHOLE = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from cellweave.train import TrainConfig, loop, train
loop._validate = lambda *_: 1.0  # of the first process; no epoch is better than the first
settings = {"batch_size": 2, "crop": 32, "width": 0.0625, "validation": 0.34, "device": "cpu"}
train(sys.argv[1], TrainConfig(out=Path(sys.argv[2]), epochs=5, patience=1, **settings))
"""

SETTLED = """
import sys
from pathlib import Path
import torch
from types import SimpleNamespace
from cellweave.train import loop, ranks
ranks.join(torch.device("cpu"))
net, averaged = (torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.ReLU()) for _ in "ab")
averaged[0].running_mean.fill_(ranks.rank())
averaged[0].running_var.fill_(3 + 2 * ranks.rank())
loop._settle_norms(SimpleNamespace(net=net.train(), averaged=averaged))
torch.save([net[0].running_mean, net[0].running_var], Path(sys.argv[1]) / f"norms{ranks.rank()}.pt")
ranks.leave()
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, domes: object) -> Path:
    from cellweave.core.image import Image
    from cellweave.prep import Channels, Normalisation
    from cellweave.representations import DiffusionFlows
    from cellweave.train.samples import Example, Preparation, prepare

    file = tmp_path_factory.mktemp("cache") / "samples.f16"
    picture, labels = domes(0, (80, 80), 6)  # type: ignore[operator]
    preparation = Preparation(24.0, Channels(), Normalisation(), DiffusionFlows())
    prepare([Example("x", Image(picture[None]), labels)], preparation, file)
    return file


def fit(out: Path, file: Path, *, accumulate: int = 1, resume: bool = False) -> list[torch.Tensor]:
    """Parameters after an epoch."""
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    net = FastUNet(widths=(4, 8, 8, 8))
    settings = {"batch_size": 2, "crop": 32, "recipe": "sgd", "learning_rate": 0.01, "device": "cpu"}
    config = TrainConfig(out=out, epochs=1, accumulate=accumulate, **settings)  # type: ignore[arg-type]
    samples = load(file)
    loop.fit(net, DiffusionFlows(), samples, samples, config, resume=resume)
    return [p.detach() for p in net.parameters()]


def twice(script: str, *arguments: Path) -> None:
    """Run a script in two processes that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = arguments[-1].with_suffix(".py")
    file.write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", file]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        list(map(str, (*command, *arguments))),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="torchrun with gloo is tested on Linux")


@pytest.mark.slow
@on_linux
def test_two_processes_make_the_steps_of_one_with_twice_the_batches(file: Path, tmp_path: Path) -> None:
    """The same parameters up to the rounding of float32; batch norms keep statistics of their own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    one = fit(tmp_path / "one", file, accumulate=2)
    torch.set_num_threads(before)
    out = tmp_path / "two"
    out.mkdir()
    twice(SECOND, Path(__file__).parent, out, file)
    two, second = (torch.load(out / f"rank{k}.pt", weights_only=True) for k in (0, 1))
    for a, b, c in zip(one, two, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
        assert torch.equal(b, c)

    # A finished run can be taken up by any number of processes, an unfinished one by as many only.
    fit(out, file, resume=True)
    content = torch.load(out / "checkpoint.pt", weights_only=True)
    assert content["state"]["processes"] == 2
    content["state"]["step"] = 3
    torch.save(content, out / "checkpoint.pt")
    with pytest.raises(InputError, match="was started with 2 processes, not 1"):
        fit(out, file, resume=True)


@pytest.mark.slow
@on_linux
def test_batch_norms_settle_on_what_all_processes_saw(tmp_path: Path) -> None:
    twice(SETTLED, tmp_path)
    for k in range(2):
        mean, variance = torch.load(tmp_path / f"norms{k}.pt", weights_only=True)
        assert (mean.tolist(), variance.tolist()) == ([0.5, 0.5], [4, 4])


@pytest.mark.slow
@on_linux
def test_two_processes_stop_together(domes: Callable[..., Any], tmp_path: Path) -> None:
    """From a folder to a model, with images held out, which the first process alone judges by."""
    (tmp_path / "data").mkdir()
    for k in range(3):
        picture, labels = domes(k, (64, 64), 3)
        tifffile.imwrite(tmp_path / "data" / f"{k}.tif", picture)
        tifffile.imwrite(tmp_path / "data" / f"{k}_masks.tif", labels.astype(np.uint16))
    twice(WHOLE, tmp_path / "data", tmp_path / "run")
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
    assert Segmenter.load(tmp_path / "run" / "model").card["Validation data"].startswith("1 images")


def test_alone_everything_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.count(), ranks.rank()) == (1, 0)
    device = torch.device("cpu")
    assert ranks.join(device) == device
    mine = torch.arange(3.0)
    ranks.average([mine])
    assert mine.tolist() == [0, 1, 2]
    assert ranks.from_first(0.5, device) == 0.5
    ranks.wait()
    ranks.leave()
