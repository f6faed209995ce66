"""Shards: small files that NumPy alone reads, and a training from them where only NumPy and PyTorch are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellweave.core.errors import InputError, ReadError
from cellweave.train import shards
from cellweave.train.samples import Facts, Samples
from cellweave.train.shards import PackedStream, pack, settings_of, unpack


def random_samples(seed: int, n: int = 5, side: int = 40) -> Samples:
    """Noise does not compress: the worst case for the size of a shard."""
    rng = np.random.default_rng(seed)
    facts = [
        Facts(f"image {k}", "group", (int(y), int(x)), ((1.0, 0.0, 0.25), (0.0, 1.0, 0.0)), bool(k % 2))
        for k, (y, x) in enumerate(rng.integers(1, side, (n, 2)))
    ]
    values = rng.normal(size=(sum(y * x for y, x in (f.shape for f in facts)), 6)) * 10.0 ** rng.integers(-4, 4, 6)
    return Samples(values.astype(np.float16), tuple(facts))


def test_samples_come_back_within_rounding(tmp_path: Path) -> None:
    parts = {"training": random_samples(0), "validation": random_samples(1)}
    files = pack(parts, {"a": [1, "b"]}, tmp_path)
    assert [file.name for file in files] == ["training-000.npz", "validation-000.npz"]
    assert settings_of(tmp_path) == {"a": [1, "b"]}
    for part, samples in parts.items():
        back = unpack(tmp_path, part)
        assert back is not None
        assert back.facts == samples.facts
        before, after = samples.values.astype(np.float64), back.values.astype(np.float64)
        normal = np.abs(before) >= 2.0**-14
        assert (np.abs(after - before)[normal] <= 2.0**-8 * np.abs(before[normal])).all()  # 8 significant bits
        assert (np.abs(after - before)[~normal] <= 2.0**-22).all()
        assert np.median(np.abs(after - before)[normal] / np.abs(before[normal])) < 2.0**-9
    assert unpack(tmp_path, "simulated") is None


def test_large_values_stay_finite(tmp_path: Path) -> None:
    from cellweave.train.samples import LARGEST_VALUE

    samples = random_samples(0)
    samples.values[0], samples.values[1] = LARGEST_VALUE, -LARGEST_VALUE
    pack({"training": samples}, {}, tmp_path)
    back = unpack(tmp_path, "training")
    assert back is not None
    assert np.isfinite(back.values).all()


@pytest.mark.parametrize("limit", [0.02, 0.005])
def test_no_file_is_larger_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    """Also where one sample alone is."""
    monkeypatch.setattr(shards, "LARGEST_MB", limit)
    samples = random_samples(0, n=6, side=80)
    assert max(y * x for y, x in (f.shape for f in samples.facts)) * 6 > 1e6 * limit
    files = pack({"training": samples}, {}, tmp_path)
    assert len(files) > 3
    assert max(file.stat().st_size for file in files) < 1e6 * limit
    back = unpack(tmp_path, "training")
    assert back is not None
    assert np.array_equal(back.values, shards._rounded(samples.values))


def test_shards_of_an_older_packing_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LARGEST_MB", 0.02)
    pack({"training": random_samples(0), "simulated": random_samples(1)}, {}, tmp_path)
    monkeypatch.undo()
    few = random_samples(2, n=1)
    pack({"training": few}, {}, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.json", "training-000.npz", "training.json"]
    back = unpack(tmp_path, "training")
    assert back is not None
    assert back.facts == few.facts


@pytest.mark.parametrize("damage", ["cut", "text", "other", "facts", "pickled"])
def test_damage_is_told(tmp_path: Path, damage: str) -> None:
    pack({"training": random_samples(0)}, {}, tmp_path)
    shard, facts = tmp_path / "training-000.npz", tmp_path / "training.json"
    match damage:
        case "cut":
            shard.write_bytes(shard.read_bytes()[:-100])
        case "text":
            shard.write_text("hello")
        case "other":
            np.savez(shard, something=np.zeros(3))
        case "facts":
            facts.write_text(facts.read_text()[:-9])
        case "pickled":
            np.savez(shard, values=np.array([{"a": 1}], object))
    name = "json" if damage == "facts" else "npz"
    with pytest.raises(ReadError, match=rf"training.*\.{name} is damaged .*copy it again"):
        unpack(tmp_path, "training")


def test_a_missing_shard_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LARGEST_MB", 0.02)
    files = pack({"training": random_samples(0, n=8)}, {}, tmp_path)
    files[1].unlink()
    with pytest.raises(ReadError, match=r"training has \d+ of \d+ pixels, so a shard is missing"):
        unpack(tmp_path, "training")


def test_a_folder_without_shards(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no run\.json; give the folder"):
        settings_of(tmp_path)


def test_a_packed_stream_is_one_block_for_ever() -> None:
    samples = random_samples(0)
    stream = PackedStream(samples)
    assert stream.size == len(samples)
    assert stream.block(0) is stream.block(7) is samples


TORCH_NEEDS = ("typing_extensions.py", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec")
BARE = """
import runpy, sys
sys.path.append(sys.argv.pop(1))
import torch
torch.set_num_threads(1)
sys.argv[0] = "bare"
runpy.run_module("cellweave.train.bare", run_name="__main__", alter_sys=True)
print("finished", sorted({"scipy", "tifffile", "rich", "cellweave._kernels._kernels"} & set(sys.modules)))
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of packages: NumPy, PyTorch with what it needs, and the Python files of cellweave."""
    import torch

    import cellweave

    folder = tmp_path / "machine"
    folder.mkdir()
    for package in (np, torch):
        home = Path(str(package.__file__)).parents[1]
        for name in (package.__name__, f"{package.__name__}.libs", "torchgen", "functorch", "nvidia", *TORCH_NEEDS):
            if (home / name).exists() and not (folder / name).exists():
                (folder / name).symlink_to(home / name)

    def no_python(here: str, names: list[str]) -> set[str]:
        return {name for name in names if (Path(here) / name).is_file() and not name.endswith(".py")}

    shutil.copytree(Path(cellweave.__file__).parent, folder / "cellweave", ignore=no_python)
    return folder


def run_bare(machine: Path, *arguments: Any, terminal: bool = False) -> subprocess.CompletedProcess[str]:
    """``python -m cellweave.train.bare`` where nothing else can be imported."""
    command = [sys.executable, "-I", "-S", "-c", BARE, *map(str, (machine, *arguments))]
    if not terminal:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    import pty

    parent, child = pty.openpty()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=child, text=True, check=False)
    os.close(child)
    done.stderr = os.read(parent, 10**6).decode()
    os.close(parent)
    return done


@pytest.mark.skipif(os.name == "nt", reason="opens a pseudo-terminal")
def test_a_bare_machine_trains_and_the_run_becomes_a_model(
    machine: Path, tmp_path: Path, domes: Any, monkeypatch: Any
) -> None:
    """Prepared here, trained there made a model here."""
    from cellweave.core.image import Image
    from cellweave.core.progress import showing
    from cellweave.nets import FastUNet
    from cellweave.train import Example, TrainConfig, prepare_only, train

    monkeypatch.setattr("cellweave.train.api.NETS", {"FastUNet": lambda **_: FastUNet(widths=(4, 8, 8, 8))})
    monkeypatch.setattr("cellweave.train.sizes.VIEWS", 2)
    examples = []
    for k in range(4):
        picture, labels = domes(k, (80, 90), 5)
        examples.append(Example(str(k), Image(picture[None]), labels))
    config = TrainConfig(out=tmp_path / "run", epochs=2, batch_size=2, crop=32, device="cpu", validation=0.25)
    files = prepare_only(examples, config)
    folder = tmp_path / "run" / "shards"
    assert [file.name for file in files] == ["training-000.npz", "validation-000.npz"]
    assert {p.name for p in folder.iterdir()} == {
        *(file.name for file in files),
        *("training.json", "validation.json", "run.json", "start.pt"),
    }

    done = run_bare(machine, folder, tmp_path / "there", "--device", "cpu", terminal=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "finished []\n"
    assert "epoch 2/2" in done.stderr
    for file in (tmp_path / "there").iterdir():
        file.rename(tmp_path / "run" / file.name)
    steps: list[int] = []
    with showing(lambda task, done, total, note: steps.append(done) if task == "training" else None):
        model = train(examples, config, resume=True)
    assert steps == []
    assert model.name == "run"
    assert model.card["Training data"].startswith("3 images")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["epochs"] == 2

    done = run_bare(machine, tmp_path / "nothing", tmp_path / "there")
    assert done.returncode == 1
    assert "has no run.json" in done.stderr
    assert "Traceback" not in done.stderr
