"""The audit of annotated images: what it finds, what it writes, and that nothing ends it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as PillowImage

from cellweave.core.errors import InputError, ModelError
from cellweave.core.files import sha256
from cellweave.core.progress import showing
from cellweave.models import Segmenter
from cellweave.train.audit import COLUMNS, NOISY, audit

Domes = Callable[..., tuple[NDArray[np.uint16], NDArray[np.int32]]]


def save(folder: Path, name: str, picture: NDArray[Any], labels: NDArray[Any]) -> None:
    for sub, pixels in (("images", picture), ("labels", labels.astype(np.uint16))):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / sub / f"{name}.tif", pixels)


@pytest.fixture
def data(tmp_path: Path, domes: Domes) -> Path:
    """Good labels; labels with faults; labels of another image; no labels at all; a damaged file."""
    folder = tmp_path / "data"
    save(folder, "a_good", *domes(1))
    picture, labels = domes(2)
    faulty = labels.copy()
    faulty[labels == 2] = 1  # two cells with one id
    faulty[0, :3] = 50  # a scrap
    save(folder, "b_faults", picture, faulty)
    save(folder, "c_wrong", picture, domes(3)[1])
    save(folder, "d_forgotten", picture, np.zeros_like(labels))
    save(folder, "e_damaged", picture, labels)
    (folder / "images" / "e_damaged.tif").write_bytes(b"II*\0 no more")
    return folder


def test_what_it_finds(data: Path, tiny_model: Segmenter) -> None:
    before = {path: sha256(path) for path in data.rglob("*.tif")}
    found = audit(data, tiny_model, device="cpu")
    assert {path: sha256(path) for path in data.rglob("*.tif")} == before
    good, faults, wrong, forgotten = found.images
    assert [i.pair.name for i in found.images] == ["a_good", "b_faults", "c_wrong", "d_forgotten"]
    assert {i.modality for i in found.images} == {"grayscale"}
    assert good.f1 is not None
    assert good.f1 > 0.8
    assert good.cleaning is not None
    assert not good.cleaning.changed
    assert 18 < good.diameter < 26
    assert faults.cleaning is not None
    assert (faults.cleaning.split, faults.cleaning.pieces, faults.cleaning.removed) == (1, 2, 1)
    assert faults.f1 is not None
    assert faults.f1 > 0.8, "the figures are of cleaned labels"
    assert wrong.f1 is not None
    assert wrong.f1 < NOISY
    assert (forgotten.f1, forgotten.diameter) == (0.0, 0.0)
    assert forgotten.found
    assert {i.pair.name for i in found.noisy} == {"c_wrong", "d_forgotten"}
    assert found.failed == 1


def test_files(data: Path, tmp_path: Path, tiny_model: Segmenter) -> None:
    out = tmp_path / "out"
    found = audit(data, tiny_model, device="cpu", out=out)
    assert sorted(p.name for p in out.iterdir()) == ["audit.csv", "audit.txt", "noisy"]
    with (out / "audit.csv").open(newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert tuple(rows["a_good"]) == COLUMNS
    assert list(rows) == ["a_good", "b_faults", "c_wrong", "d_forgotten", "e_damaged.tif"]
    assert (rows["a_good"]["noisy"], rows["c_wrong"]["noisy"], rows["e_damaged.tif"]["noisy"]) == ("0", "1", "")
    assert (rows["b_faults"]["split"], rows["b_faults"]["removed"]) == ("1", "1")
    assert "e_damaged.tif" in rows["e_damaged.tif"]["error"]
    assert float(rows["d_forgotten"]["f1"]) == 0

    text = (out / "audit.txt").read_text()
    assert text == found.text() + "\n"
    for part in (
        "4 of 5 image pairs can be used",
        "Label cleaning would change 1 of 4 images",
        "b_faults: ",
        "F1@0.5 of the model 'tiny'",
        "Images under 0.1: 2 of 4; look at them and decide",
        "d_forgotten: F1 0.00, 0 labelled, ",
    ):
        assert part in text
    assert sorted(p.name for p in (out / "noisy").iterdir()) == ["c_wrong.png", "d_forgotten.png"]
    assert np.asarray(PillowImage.open(out / "noisy" / "c_wrong.png")).shape == (160, 2 * 160 + 8, 3)


def test_a_fault_of_ours_does_not_end_it(data: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Segmenter) -> None:
    """What was found before stays: modality and cleaning are reported although the model cannot run."""

    def broken(image: Any, **_: Any) -> None:
        if "b_faults" in image.source:
            raise RuntimeError("out of memory")
        raise InputError("this image has seven channels")

    monkeypatch.setattr("cellweave.train.audit.segment", broken)
    found = audit(data, tiny_model)
    assert found.failed == 5
    assert found.noisy == []
    assert [i.error for i in found.images[:2]] == [
        "this image has seven channels",
        "unexpected RuntimeError: out of memory",
    ]
    assert found.images[1].cleaning is not None
    assert found.images[1].modality == "grayscale"
    assert "Not audited (4)" in found.text()
    assert "F1@0.5" not in found.text()


def test_a_model_that_knows_nothing_is_told(tmp_path: Path, domes: Domes, tiny_model: Segmenter) -> None:
    picture, labels = domes(4)
    save(tmp_path, "x", np.full_like(picture, 7), labels)
    text = audit(tmp_path, tiny_model, device="cpu").text()
    assert "the model may not know such cells" in text


def test_many_images_are_shortened(tmp_path: Path, domes: Domes, tiny_model: Segmenter) -> None:
    picture, labels = domes(5, (64, 64), 2, 20.0)
    labels[0, 0] = 9
    for k in range(15):
        save(tmp_path, f"{k:02d}", picture, labels)
    text = audit(tmp_path, tiny_model, device="cpu").text()
    assert "Label cleaning would change 15 of 15 images" in text
    assert "11: 3 objects: 1 under 5 px removed; 2 left" in text
    assert "12: 3 objects" not in text
    assert "... and 3 more" in text


def test_progress(data: Path, tiny_model: Segmenter) -> None:
    told: list[tuple[str, int, int]] = []
    with showing(lambda task, done, total, _note: told.append((task, done, total))):
        audit(data, tiny_model, device="cpu")
    assert ("checking the data", 5, 5) in told
    assert [t for t in told if t[0] == "auditing"] == [("auditing", k, 4) for k in range(5)]


def test_errors(tmp_path: Path, tiny_model: Segmenter) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        audit(tmp_path / "none", tiny_model)
    with pytest.raises(InputError, match="the folder is empty"):
        audit(tmp_path, tiny_model)
    with pytest.raises(ModelError, match="nobody"):
        audit(tmp_path, "nobody")


@pytest.mark.shared_data
def test_real_images(shared_data: Path, tmp_path: Path, default_model: Segmenter) -> None:
    """Nuclei as the embedded model knows them, one with the labels of another: that one is listed."""
    files = sorted((shared_data / "bbbc039" / "images").iterdir())[:4]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for k, file in enumerate(files):
        (tmp_path / "images" / file.name).symlink_to(file)
        labels = files[0] if k == 3 else file
        (tmp_path / "labels" / file.name).symlink_to(shared_data / "bbbc039" / "labels" / labels.name)
    found = audit(tmp_path, default_model, device="cpu")
    assert found.failed == 0
    scores = [i.f1 or 0.0 for i in found.images]
    assert min(scores[:3]) > 0.8
    assert scores[3] == min(scores) < 0.4
