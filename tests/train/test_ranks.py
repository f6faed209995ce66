"""Several processes train one model: `torchrun` on one machine, without a GPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cellweave.train import ranks

FIT = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from cellweave.nets import FastUNet
from cellweave.representations import DiffusionFlows
from cellweave.train import loop, ranks
from cellweave.train.config import TrainConfig
from cellweave.train.samples import load
from cellweave.core import files
out, file, accumulate, epochs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
if ranks.rank() > 0:  # the first process alone writes
    def refuse(*_):
        raise AssertionError("the second process writes")
    loop.write_atomically = loop._Events = refuse
torch.manual_seed(0)
net = FastUNet(widths=(4, 8, 8, 8))
config = TrainConfig(out=out, epochs=epochs, batch_size=2, crop=32, accumulate=accumulate, recipe="sgd",
                     learning_rate=0.01, device="cpu")
samples = load(file)
loop.fit(net, DiffusionFlows(), samples, samples, config, resume=(out / "checkpoint.pt").exists())
torch.save([p.detach() for p in net.parameters()], out / f"rank{ranks.rank()}.pt")
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


def fit(out: Path, file: Path, *, processes: int, accumulate: int, epochs: int = 1) -> subprocess.CompletedProcess[str]:
    out.mkdir(exist_ok=True)
    script = out.with_suffix(".py")
    script.write_text(FIT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    command = [sys.executable, *(several if processes > 1 else []), script, out, file, accumulate, epochs]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="torchrun with gloo is tested on Linux")
def test_two_processes_make_the_steps_of_one_with_twice_the_batches(file: Path, tmp_path: Path) -> None:
    """The same parameters up to the rounding of float32; batch norms keep statistics of their own."""
    for out, processes, accumulate in (("one", 1, 2), ("two", 2, 1)):
        done = fit(tmp_path / out, file, processes=processes, accumulate=accumulate)
        assert done.returncode == 0, done.stderr
    one = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    two = torch.load(tmp_path / "two" / "rank0.pt", weights_only=True)
    start = torch.load(tmp_path / "two" / "checkpoint.pt", weights_only=True)
    assert start["state"]["processes"] == 2
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    other = torch.load(tmp_path / "two" / "rank1.pt", weights_only=True)
    for a, b in zip(two, other, strict=True):
        assert torch.equal(a, b)

    # A finished run can be taken up by any number of processes, an unfinished one by as many only.
    done = fit(tmp_path / "two", file, processes=1, accumulate=1)
    assert done.returncode == 0, done.stderr
    content = torch.load(tmp_path / "two" / "checkpoint.pt", weights_only=True)
    content["state"]["step"] = 3
    torch.save(content, tmp_path / "two" / "checkpoint.pt")
    done = fit(tmp_path / "two", file, processes=1, accumulate=1)
    assert done.returncode == 1
    assert "was started with 2 processes, not 1" in done.stderr


def test_alone_everything_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.count(), ranks.rank()) == (1, 0)
    device = torch.device("cpu")
    assert ranks.join(device) == device
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.arange(3.0)
    ranks.mean_gradients([parameter])
    assert parameter.grad.tolist() == [0, 1, 2]
    assert ranks.from_first(0.5, device) == 0.5
    ranks.wait()
    ranks.leave()
