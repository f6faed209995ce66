"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cellweave.models import Segmenter

REPOSITORY = Path(__file__).resolve().parents[1]

settings.register_profile("cellweave", deadline=None, max_examples=40)
settings.load_profile("cellweave")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The team's data folder beside the checkout; tests that need it carry the marker `shared_data`."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the team's data folder ../shared/data, which is not beside this checkout")
    return folder


def random_cells(
    seed: int = 0, shape: tuple[int, int] = (128, 128), n: int = 20, radius: float = 8.0
) -> NDArray[np.int32]:
    """Label image of `n` non-overlapping, often touching ellipses (fewer where they do not fit)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for label in range(1, n + 1):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        a, b = radius * rng.uniform(0.6, 1.4, 2)
        angle = rng.uniform(0, np.pi)
        u = (rows - y) * np.cos(angle) + (columns - x) * np.sin(angle)
        v = -(rows - y) * np.sin(angle) + (columns - x) * np.cos(angle)
        inside = (u / a) ** 2 + (v / b) ** 2 <= 1
        if inside.sum() >= 20 and not labels[inside].any():
            labels[inside] = label
    return np.unique(labels, return_inverse=True)[1].reshape(shape).astype(np.int32)


@pytest.fixture
def cells() -> NDArray[np.int32]:
    """A small label image of round cells."""
    return random_cells()


def dome_picture(
    seed: int = 0, shape: tuple[int, int] = (160, 160), n: int = 12, diameter: float = 24.0
) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """A picture (Y, X) of `n` bright domes that do not touch (fewer where they do not fit), and their labels."""
    rng = np.random.default_rng(seed)
    picture, labels = np.full(shape, 100.0), np.zeros(shape, np.int32)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    reach = 0.6 * diameter
    for _ in range(30 * n):
        if labels.max() == n or min(shape) <= 2 * reach:
            break
        y, x = rng.uniform(reach, shape[0] - reach), rng.uniform(reach, shape[1] - reach)
        distance = np.hypot(rows - y, columns - x) / (diameter / 2)
        if not labels[distance < 1.2].any():
            labels[distance < 1] = labels.max() + 1
            picture[distance < 1] = 1000 * (0.3 + 0.7 * (1 - distance[distance < 1] ** 2))
    return picture.astype(np.uint16), labels


@pytest.fixture(scope="session")
def domes() -> Callable[..., tuple[NDArray[np.uint16], NDArray[np.int32]]]:
    """`dome_picture`."""
    return dome_picture


@pytest.fixture(scope="session")
def tiny_model() -> Segmenter:
    """A model that was never trained: its weights are set so that it finds the bright domes of `dome_picture`.

    The first scale passes the pixels on; their brightness is the probability, 0.8 times the sign of their slope is the
    flow. The deeper scales are random and weak, so that the maps depend on pixels far away, too.
    """
    import torch
    from torch import nn

    from cellweave.models import Segmenter
    from cellweave.nets import FastUNet
    from cellweave.representations import DiffusionFlows

    torch.manual_seed(0)
    net = FastUNet(widths=(16, 8, 8, 8))
    first, last = net.encoder[0], net.decoder[0]
    for part in (first.norm1, first.norm2, last.norm1):
        nn.init.zeros_(part.weight)
    for part in (first.project, last.conv1, last.conv2, net.head):
        nn.init.zeros_(part.weight)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    nn.init.ones_(last.norm1.weight)
    nn.init.normal_(net.narrow[0].weight, std=0.02)
    with torch.no_grad():
        net.narrow[0].weight[8:] = 0
        nn.init.zeros_(net.narrow[0].bias)
        for k in range(8):
            first.project.weight[k, k] = 1
        for k, (axis, sign) in enumerate([(0, 1), (0, -1), (1, 1), (1, -1)]):
            for offset in (0, 1):  # the slope times 5, from 0 to 1: relu(slope) - relu(slope - 1)
                out = 8 + 2 * k + offset
                for step in (-1, 1):
                    where = (1 + step, 1) if axis == 0 else (1, 1 + step)
                    last.conv1.weight[out, :4, *where] = 5 * sign * step
                last.norm1.bias[out] = -offset
                last.conv2.weight[out, out, 1, 1] = 1
                net.head.weight[4 * axis : 4 * axis + 4, out] = 4 * sign * (1 - 2 * offset)
        for pixel in range(4):
            net.head.weight[8 + pixel, pixel] = 20
            net.head.bias[8 + pixel] = -4
    return Segmenter(net.eval(), DiffusionFlows(), 24.0, name="tiny", card={"Training data": "none"})


@pytest.fixture(scope="session")
def model_folder(tiny_model: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model`, saved."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model.save(folder)
    return folder


@pytest.fixture(scope="session")
def default_model() -> Segmenter:
    """The embedded model."""
    from cellweave.models import list_models, load_model

    if not any((entry.name, entry.origin) == ("default", "embedded") for entry in list_models()):
        pytest.skip("the embedded model 'default' is not in this checkout yet; scripts/train-default makes it")
    return load_model("default")


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file of this process can grow over `size` bytes: writing more fails as on a full disk."""
    resource = pytest.importorskip("resource", reason="this system has no limits on file sizes")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="session")
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """`file_limit`."""
    return file_limit


class Finished(NamedTuple):
    """What a command left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Runs ``cellweave ARGUMENTS`` in this process."""

    def run(*arguments: object) -> Finished:
        from cellweave.cli import main

        monkeypatch.setattr("sys.argv", ["cellweave", *map(str, arguments)])
        capsys.readouterr()
        status: object = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        assert isinstance(status, int)
        return Finished(status, *capsys.readouterr())

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: sums are added in one order, in this process and in others."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
