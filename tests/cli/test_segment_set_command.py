"""``cellweave segment --model-set``: nuclei and cells, linked, by the models that the channels' names pick."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from cellweave.core.linking import link
from cellweave.io import read_image, read_labels, read_table
from cellweave.models import Choice, ModelSet, Segmenter, Training
from cellweave.predict import segment_set
from cellweave.prep import FlatField

Run = Callable[..., Any]
ENDINGS = (
    *("_nuclei_labels.tif", "_nuclei_overlay.png", "_nuclei.csv"),
    *("_cells_labels.tif", "_cells_overlay.png", "_cells.csv"),
    *("_cytoplasm_labels.tif", "_matched_nuclei_labels.tif", "_linked.csv"),
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, tiny_model: Segmenter) -> ModelSet:
    models = ModelSet.create(tmp_path_factory.mktemp("sets") / "zoo")
    for name in ("nuclei", "cells"):
        for reporter in ("ERK", "AKT", "p38"):
            where = {"object": name, "cell_line": "U2OS", "reporter": reporter}
            models = models.add(tiny_model, **where, training=Training(24.0))
        models = models.choose(name, "U2OS", Choice(("ERK", "AKT")))
    return models.add(tiny_model, object="nuclei", cell_line="A375", reporter="ERK")


def save(path: Path, pixels: NDArray[Any], names: list[str] | None, axes: str = "CYX") -> Path:
    path.parent.mkdir(exist_ok=True)
    metadata: dict[str, Any] = {"axes": axes} | ({"Channel": {"Name": names}} if names else {})
    tifffile.imwrite(path, pixels, ome=True, metadata=metadata, photometric="minisblack")
    return path


@pytest.fixture
def images(tmp_path: Path, domes: Callable[..., Any]) -> Path:
    """Three images: of two chosen channels; with one of them missing; with a channel that has no model."""
    one, two = domes(1, (100, 120), 5)[0], domes(2, (100, 120), 4)[0]
    save(tmp_path / "in" / "a.ome.tif", np.stack([one, one]), ["akt", "ERK"])
    save(tmp_path / "in" / "b.ome.tif", np.stack([two, one]), ["DAPI", "ERK"])
    save(tmp_path / "in" / "c.ome.tif", np.stack([two, one]), ["p 38", "erk"])
    return tmp_path / "in"


@pytest.fixture
def segment(run_cli: Run, tmp_path: Path, zoo: ModelSet) -> Run:
    def run(*arguments: object, out: Path | None = None, line: str = "u2os") -> Any:
        return run_cli(
            *("segment", *arguments, "--out", out or tmp_path / "out", "--model-set", zoo.root),
            *("--cell-line", line, "--device", "cpu"),
        )

    return run


def summary(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as stream:
        return {Path(row["file"]).name: row for row in csv.DictReader(stream)}


def test_a_folder(segment: Run, images: Path, tmp_path: Path, zoo: ModelSet) -> None:
    done = segment(images)
    assert done.status == 0, done.err
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["run.json", "summary.csv", *(stem + ending for stem in "abc" for ending in ENDINGS)]
    )
    for stem in "abc":
        image = read_image(images / f"{stem}.ome.tif")
        expected = segment_set(image, zoo, cell_line="U2OS", device="cpu")
        found = {name: read_labels(out / f"{stem}_{name}_labels.tif") for name in ("nuclei", "cells")}
        for name, result in expected.items():
            assert np.array_equal(found[name], result.labels)
            assert read_table(out / f"{stem}_{name}.csv").keys() == result.table.keys()
        both = link(found["nuclei"], found["cells"], image=image)
        assert np.array_equal(read_labels(out / f"{stem}_cytoplasm_labels.tif"), both.cytoplasm)
        assert np.array_equal(read_labels(out / f"{stem}_matched_nuclei_labels.tif"), both.matched_nuclei)
        table = read_table(out / f"{stem}_linked.csv")
        assert table.keys() == both.table.keys()
        assert table["cell"].tolist() == both.table["cell"].tolist()
        row = summary(out)[f"{stem}.ome.tif"]
        assert int(row["nuclei"]) == expected["nuclei"].count > 2
        assert int(row["cells"]) == expected["cells"].count
        assert float(row["nuclei_diameter"]) == 24
        assert row["nuclei_without_cell"] == "0"


def test_it_tells_which_models_it_used_and_what_has_none(segment: Run, images: Path, tmp_path: Path) -> None:
    done = segment(images)
    lines = {
        "a": "nuclei of U2OS: flow fusion of AKT, ERK; no channel for the model of p38",
        "b": "nuclei of U2OS: the model for ERK alone; without the chosen AKT; no model for the channel DAPI; "
        "no channel for the model of AKT, p38",
        "c": "nuclei of U2OS: the model for ERK alone; without the chosen AKT; no channel for the model of AKT; "
        "not in the chosen subset: p38",
    }
    rows = summary(tmp_path / "out")
    for stem, line in lines.items():
        assert done.err.count(f"Model set zoo, {line}\n") == 1
        assert rows[f"{stem}.ome.tif"]["models"].split(" | ")[0] == line
    again = segment(images, "--overwrite")
    assert again.err.count("Model set zoo, nuclei") == 3


def test_what_is_finished_is_skipped_until_the_set_changes(
    run_cli: Run, images: Path, tmp_path: Path, zoo: ModelSet, tiny_model: Segmenter
) -> None:
    own = ModelSet.create(tmp_path / "own").add(tiny_model, object="nuclei", cell_line="U2OS", reporter="ERK")
    arguments = ("segment", images, "--out", tmp_path / "out", "--model-set", own.root, "--device", "cpu")
    assert run_cli(*arguments).status == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"]["model_hash"] == own.hash
    assert record["settings"]["cell_line"] == "U2OS"
    again = run_cli(*arguments)
    assert again.status == 0
    assert again.err.count("already done") == 3
    own.choose("nuclei", "U2OS", Choice(method="simple"))
    changed = run_cli(*arguments)
    assert changed.status == 1
    assert "other settings (model_hash" in changed.err
    assert run_cli(*arguments, "--overwrite").status == 0


def test_one_object_and_its_outputs(segment: Run, images: Path, tmp_path: Path) -> None:
    done = segment(images / "a.ome.tif", "--object", "nuclei", "--save", "labels,png,zarr,diagnostics,table")
    assert done.status == 0, done.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *("a_nuclei.csv", "a_nuclei_diagnostics.png", "a_nuclei_labels.png", "a_nuclei_labels.tif"),
        *("a_nuclei_labels.zarr", "run.json", "summary.csv"),
    ]
    only = segment(images / "a.ome.tif", out=tmp_path / "other", line="A375")  # it has no model for cells
    assert only.status == 0, only.err
    assert "nuclei of A375: the model for ERK alone; no model for the channel akt" in only.err
    missing = segment(images, "--object", "cells", out=tmp_path / "other", line="A375")
    assert missing.status == 1
    assert "no model for cells of A375; it has nuclei, U2OS, ERK" in missing.err


def test_a_time_lapse(segment: Run, tmp_path: Path, domes: Callable[..., Any], zoo: ModelSet) -> None:
    frames = np.stack([np.stack([domes(seed, (100, 120), 4)[0]] * 2) for seed in (1, 2)])
    file = save(tmp_path / "film.ome.tif", frames, ["ERK", "AKT"], "TCYX")
    done = segment(file)
    assert done.status == 0, done.err
    for t in range(2):
        expected = segment_set(read_image(file).plane(t=t), zoo, cell_line="U2OS", device="cpu")
        both = link(expected["nuclei"].labels, expected["cells"].labels)
        for name, labels in (
            *((k, v.labels) for k, v in expected.items()),
            ("cytoplasm", both.cytoplasm),
            ("matched_nuclei", both.matched_nuclei),
        ):
            assert np.array_equal(tifffile.imread(tmp_path / "out" / f"film_{name}_labels.tif")[t], labels)
    table = read_table(tmp_path / "out" / "film_linked.csv")
    assert set(table["frame"]) == {0, 1}
    assert "in 2 frames" in done.err
    assert "already done" in segment(file).err


def test_a_time_lapse_with_frames_that_lack_channels(segment: Run, tmp_path: Path, domes: Callable[..., Any]) -> None:
    """ERK is blank in one frame, everything in another: that one is empty, and no cell is told to have no nucleus."""
    frames = np.stack([np.stack([domes(seed, (100, 120), 4)[0]] * 2) for seed in (1, 2, 3)])
    frames[0] = 0
    frames[2, 0] = 5
    done = segment(save(tmp_path / "film.ome.tif", frames, ["ERK", "AKT"], "TCYX"))
    assert done.status == 1
    assert "frames 0 of 3" in done.err
    for name in ("nuclei", "cells"):
        assert f"Model set zoo, {name} of U2OS: flow fusion of ERK, AKT; no channel" in done.err
        assert f"Model set zoo, from frame 2 on: {name} of U2OS: the model for AKT alone" in done.err
    assert set(read_table(tmp_path / "out" / "film_linked.csv")["frame"]) == {1, 2}
    row = summary(tmp_path / "out")["film.ome.tif"]
    assert row["anucleate"] == "0"
    assert "from frame 2 on" in row["models"]


def test_images_that_are_prepared_in_another_way(
    run_cli: Run, images: Path, tmp_path: Path, tiny_model: Segmenter
) -> None:
    field = tmp_path / "light.npz"
    FlatField(np.ones((100, 120)), np.zeros((100, 120))).save(field)
    made = Training(24.0, prepared={"illumination": "hash of another file", "clahe": "", "scaling": ""})
    own = ModelSet.create(tmp_path / "own")
    own.add(tiny_model, object="nuclei", cell_line="U2OS", reporter="ERK", training=made)
    arguments = ("segment", images / "a.ome.tif", "--model-set", own.root, "--device", "cpu", "--save", "table")
    done = run_cli(*arguments, "--out", tmp_path / "a")
    assert done.status == 0
    assert "made with images after even illumination; these images come after nothing" in done.err
    done = run_cli(*arguments, "--out", tmp_path / "b", "--illumination", field)
    assert done.status == 0, done.err
    assert "made with images" not in done.err


@pytest.mark.parametrize("axes", ["CYX", "TCYX"])
def test_an_object_without_a_usable_model_is_left_out(
    run_cli: Run, tmp_path: Path, domes: Callable[..., Any], tiny_model: Segmenter, axes: str
) -> None:
    own = ModelSet.create(tmp_path / "own")
    for name, reporter in (("nuclei", "P1"), ("nuclei", "P2"), ("cells", "P1")):
        own = own.add(tiny_model, object=name, cell_line="U2OS", reporter=reporter)
    pixels = domes(1, (100, 120), 4)[0][None]
    file = save(tmp_path / "x.ome.tif", pixels if axes == "CYX" else np.stack([pixels] * 2), ["P2"], axes)
    arguments = ("segment", file, "--model-set", own.root, "--device", "cpu", "--diameter", "nuclei=24")
    done = run_cli(*arguments, "--out", tmp_path / "out", "--save", "labels,table")
    assert done.status == 0, done.err
    assert "Model set own, cells are left out: model set 'own' has no model for cells of U2OS" in done.err
    names = ["run.json", "summary.csv", "x_nuclei.csv", "x_nuclei_labels.tif"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    assert summary(tmp_path / "out")["x.ome.tif"]["outputs"] == "x_nuclei_labels.tif x_nuclei.csv"
    again = (*arguments, "--out", tmp_path / "out", "--save", "labels,table")
    assert "already done" in run_cli(*again).err
    stale = [tmp_path / "out" / f"x_{end}" for end in ("cells_labels.tif", "cytoplasm_labels.tif", "linked.csv")]
    for path in stale:
        path.touch()  # as if there had been a model for cells
    assert run_cli(*again, "--overwrite").status == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    only = run_cli(*arguments[:-2], "--out", tmp_path / "other", "--object", "cells")
    assert only.status == 1
    assert "no model for cells" in only.err


def test_files_without_names_need_reporters(segment: Run, tmp_path: Path, domes: Callable[..., Any]) -> None:
    picture = domes(1, (100, 120), 5)[0]
    file = save(tmp_path / "x.tif", np.stack([picture, picture, picture]), None)
    done = segment(file)
    assert done.status == 1
    assert "does not tell the names of its 3 channels" in done.err
    done = segment(file, "--reporters", "ERK,,akt", "--overwrite")
    assert done.status == 0, done.err
    assert "flow fusion of ERK, AKT; no model for the channel 2 (without a name)" in done.err
    done = segment(file, "--reporters", "ERK,AKT", "--overwrite")
    assert done.status == 1
    assert "has 3 channels, and these are 2 reporters" in done.err


def test_diameters(segment: Run, images: Path, tmp_path: Path) -> None:
    file = images / "a.ome.tif"
    assert segment(file, "--diameter", "nuclei=20, cells=30").status == 0
    row = summary(tmp_path / "out")["a.ome.tif"]
    assert (float(row["nuclei_diameter"]), float(row["cells_diameter"])) == (20, 30)
    assert segment(file, "--diameter", "21", "--object", "cells", "--overwrite").status == 0
    assert float(summary(tmp_path / "out")["a.ome.tif"]["cells_diameter"]) == 21
    for wrong in ("20", "nuclei=20,membranes=3", "nuclei=20,30"):
        done = segment(file, "--diameter", wrong, "--overwrite")
        assert done.status == 1
        assert "write nuclei=30,cells=30" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "x"], "--model cannot be used with --model-set"),
        (["--channels", "gray", "--min-size", "0"], "--channels, --min-size cannot be used"),
        (["--object", "membranes"], "--object 'membranes' is unknown"),
        (["--save", "film"], "--save: 'film' is unknown"),
    ],
)
def test_options_that_do_not_fit(segment: Run, images: Path, arguments: list[str], said: str) -> None:
    done = segment(images, *arguments)
    assert done.status == 1
    assert said in done.err


def test_what_is_missing_is_named(segment: Run, run_cli: Run, images: Path, tmp_path: Path) -> None:
    done = segment(images, line="HeLa")
    assert done.status == 1
    assert "no models for the cell line 'HeLa'; it has U2OS, A375" in done.err
    done = run_cli("segment", images, "--out", tmp_path / "out", "--model-set", "nowhere")
    assert done.status == 1
    assert "there is no model set 'nowhere'" in done.err
    done = run_cli("segment", images, "--out", tmp_path / "out", "--reporters", "A,B")
    assert done.status == 1
    assert "add --model-set" in done.err
    assert not (tmp_path / "out").exists()
