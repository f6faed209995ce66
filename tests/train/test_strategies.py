"""Strategies: which model learns from what, one diameter in training and use, sets that fit the images, resuming."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellweave.core.errors import InputError
from cellweave.core.files import sha256
from cellweave.core.labels import diameters
from cellweave.io import write_labels
from cellweave.models import Segmenter
from cellweave.models.model_set import ANY, AVERAGE, Key, ModelSet
from cellweave.predict.fused import segment_set
from cellweave.predict.maps import Planes
from cellweave.prep import Channels, FlatField, Preparation, Resampling, Scaling, corrected
from cellweave.train import TrainConfig, self_training, strategies
from cellweave.train.objects import Field, read_fields
from cellweave.train.strategies import (
    averaged,
    folder_name,
    mean_diameter,
    split_fields,
    train_strategy,
    trainings,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LINE = "U2OS"
CELLS = Key("cells", LINE, "")


def write_field(
    folder: Path, stem: str, pixels: np.ndarray, names: tuple[str, ...], labels: dict[str, np.ndarray]
) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    metadata = {"axes": "CYX", "Channel": {"Name": list(names)}}
    tifffile.imwrite(folder / "images" / f"{stem}.ome.tif", pixels, metadata=metadata, photometric="minisblack")
    for name, one in labels.items():
        (folder / name).mkdir(exist_ok=True)
        write_labels(folder / name / f"{stem}.tif", one.astype(np.int32))


@pytest.fixture(scope="module")
def pictures(domes: Callable[..., Any]) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Three channels (C, Y, X), cells as domes, and nuclei in their middles."""
    made = []
    for k in range(5):
        picture, cells = domes(k, (96, 112), 6, 20 + 2 * k)
        nuclei = np.where(picture > 0.8 * picture.max(), cells, 0).astype(np.int32)
        made.append((np.stack([picture, picture // 2, picture.max() - picture]), {"nuclei": nuclei, "cells": cells}))
    return made


@pytest.fixture
def data(tmp_path: Path, pictures: list[Any]) -> Path:
    """Five images; one of them lacks the reporter P3, and P2 is dark in another."""
    folder = tmp_path / "data"
    for k, (pixels, labels) in enumerate(pictures):
        pixels = pixels.copy()
        if k == 1:
            pixels[1] = 100
        n = 2 if k == 0 else 3
        write_field(folder, f"f{k}", pixels[:n], ("P1", "P2", "P3")[:n], labels)
    return folder


@pytest.fixture
def small(tmp_path: Path, pictures: list[Any]) -> Path:
    """Three images of two reporters, for trainings."""
    folder = tmp_path / "small"
    for k, (pixels, labels) in enumerate(pictures[:3]):
        write_field(folder, f"f{k}", pixels[:2], ("P1", "P2"), labels)
    return folder


@pytest.fixture
def fields(data: Path) -> list[Field]:
    return read_fields(data)[0]


def config(out: Path, model_folder: Path, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {"epochs": 1, "batch_size": 1, "crop": 32, "validation": 0.2, "patience": 20}
    return TrainConfig(out, base=str(model_folder), **options | changes)


def test_channels_without_signal_are_not_there(fields: list[Field]) -> None:
    assert [one.name for one in fields] == [f"f{k}" for k in range(5)]
    assert [one.reporters for one in fields[:3]] == [("P1", "P2"), ("P1", "P3"), ("P1", "P2", "P3")]
    assert set(fields[0].labels) == {"nuclei", "cells"}


def test_each_reporter_learns_from_the_images_that_show_it(fields: list[Field], tmp_path: Path) -> None:
    made = list(trainings("channel-wise", CELLS, (fields, fields[:2]), TrainConfig(tmp_path)))
    assert [key.reporter for key, *_ in made] == ["P1", "P2", "P3"]
    assert {one.channels for _, one, *_ in made} == {"gray"}
    assert all(e.image.channel_names == (key.reporter,) for key, _, learned, _ in made for e in learned)
    assert [[e.name for e in learned] for *_, learned, _ in made] == [
        ["f0", "f1", "f2", "f3", "f4"],
        ["f0", "f2", "f3", "f4"],
        ["f1", "f2", "f3", "f4"],
    ]
    assert [[e.name for e in held] for *_, held in made] == [["f0", "f1"], ["f0"], ["f1"]]


def test_names_are_the_same_whatever_their_case(fields: list[Field], tmp_path: Path) -> None:
    """And a name that is a number is a name, not a place."""

    def spelled(one: Field, *names: str) -> Field:
        return replace(one, image=replace(one.image, channel_names=names))

    several = [spelled(fields[2], "GFP", "2", "1"), spelled(fields[3], "1", "g fp", "2")]
    made = list(
        trainings("channel-wise", CELLS, (several, [spelled(fields[4], "2", "gfp", "x")]), TrainConfig(tmp_path))
    )
    assert [key.reporter for key, *_ in made] == ["GFP", "2", "1"]
    for (_, _, learned, held), places in zip(made, [(0, 1, 1), (1, 2, 0), (2, 0)], strict=True):
        for example, source, k in zip(learned + held, fields[2:], places, strict=False):
            assert np.array_equal(example.image.read(), source.image.read()[k : k + 1])
        assert len(learned + held) == len(places)
    [(_, _, learned, held)] = trainings("universal", CELLS, (several, several), TrainConfig(tmp_path))
    assert {e.group for e in learned + held} == {"GFP", "2", "1"}
    assert folder_name(Key("cells", "U2 OS", "GFP")) == folder_name(Key("cells", "u2os", "g fp"))


def test_the_universal_model_sees_every_channel_alone(fields: list[Field], tmp_path: Path) -> None:
    [(key, one, learned, _)] = trainings("universal", CELLS, (fields, []), TrainConfig(tmp_path))
    assert key.reporter == ANY
    assert one.channels == "gray"
    assert len(learned) == 2 + 2 + 3 * 3
    assert {e.group for e in learned} == {"P1", "P2", "P3"}
    for e in learned:
        source = next(f for f in fields if f.name == e.name)
        k = source.reporters.index(e.group)
        assert np.array_equal(e.image.read(), source.image.read()[k : k + 1])


def test_the_grayscale_model_sees_the_mean_of_normalised_channels(fields: list[Field], tiny_model: Segmenter) -> None:
    image = averaged(fields[3].image)
    planes = Planes(image, tiny_model, Channels("gray"))
    normalisation = tiny_model.normalisation
    expected = normalisation.apply(image.read(), normalisation.limits(image)).mean(axis=0)
    axes = [Resampling(n, n) for n in expected.shape]
    np.testing.assert_allclose(planes.read(*axes, *(slice(0, n) for n in expected.shape))[0], expected, atol=1e-5)


@pytest.mark.parametrize("strategy", ["channel-wise", "universal", "grayscale"])
def test_one_diameter_for_all_images_is_that_of_the_set(fields: list[Field], tmp_path: Path, strategy: Any) -> None:
    expected = np.concatenate([diameters(f.labels["nuclei"]) for f in fields]).mean()
    for *_, learned, _held in trainings(strategy, Key("nuclei", LINE, ""), (fields, fields), TrainConfig(tmp_path)):
        assert [e.diameter for e in learned] == pytest.approx([expected] * len(learned), abs=0.01)
        assert len({e.median_diameter for e in learned}) > 1


def test_images_are_prepared_as_those_to_segment(data: Path, fields: list[Field], tmp_path: Path) -> None:
    """With the limits of each channel, also where some channels are not there."""
    flat = FlatField(np.full((96, 112), 1.0), np.full((96, 112), 7.0), {"method": "known"})
    evened = corrected(fields[2].image, flat)
    limits = ((0.0, 10.0), (1.0, 20.0), (2.0, 30.0))
    scaling = Scaling(limits, ("P1", "P2", "P3"), {"illumination": evened.facts["illumination"]})
    shutil.rmtree(data / "nuclei")
    (data / "images" / "f0.ome.tif").unlink()
    found, _ = read_fields(data, prepared=Preparation(illumination=flat, scaling=scaling))
    assert [one.image.limits for one in found[:2]] == [(limits[0], limits[2]), limits]
    np.testing.assert_array_equal(found[1].image.read(), evened.read())
    *_, (_, _, learned, _) = trainings("channel-wise", CELLS, (found, []), TrainConfig(tmp_path))
    assert {e.image.limits for e in learned} == {limits[1:2]}
    some, _ = read_fields(data, ["A", "", "C"])
    assert {one.reporters for one in some} == {("A", "C")}


def test_the_split_depends_on_the_seed_only(fields: list[Field], tmp_path: Path) -> None:
    training, held_out = split_fields(fields, TrainConfig(tmp_path, validation=0.4))
    assert len(held_out) == 2
    assert {f.name for f in training + held_out} == {f.name for f in fields}
    again = split_fields(fields, TrainConfig(tmp_path / "b", validation=0.4))[1]
    assert [f.name for f in again] == [f.name for f in held_out]
    assert split_fields(fields[:1], TrainConfig(tmp_path, validation=0.9)) == (fields[:1], [])


def test_a_set_is_trained_that_segments_the_images(small: Path, tmp_path: Path, model_folder: Path) -> None:
    made = train_strategy(small, "channel-wise", config(tmp_path / "run", model_folder), cell_line=LINE)
    assert set(made.keys) == {Key(o, LINE, r) for o in ("nuclei", "cells") for r in ("P1", "P2")}
    fields, text = read_fields(small)
    assert "image pairs can be used" in text
    for name in ("nuclei", "cells"):
        training = split_fields(fields, config(tmp_path / "run", model_folder))[0]
        kept = made.training(Key(name, LINE, "P2"))
        assert kept.diameter == mean_diameter(training, name)
        assert kept.images == {f.name: sha256(f.image.source) for f in fields}
        assert kept.prepared == Preparation().record
        model = made.model(Key(name, LINE, "P2"))
        assert str(model.channels) == "gray"
        assert model.diameter == 24.0
        assert model.size_model is None
        assert "in training and in use" in model.card_text()
    loaded = ModelSet.load(tmp_path / "run" / "set")
    loaded.check()
    found = segment_set(fields[2].image, loaded, cell_line=LINE)
    assert set(found) == {"nuclei", "cells"}
    assert found["cells"].diameter == made.training(Key("cells", LINE, "P2")).diameter
    assert found["cells"].pick is not None
    assert found["cells"].pick.reporters == ("P1", "P2")


@pytest.mark.parametrize(("strategy", "reporter"), [("universal", ANY), ("grayscale", AVERAGE)])
def test_one_model_for_each_object(
    small: Path, tmp_path: Path, model_folder: Path, strategy: Any, reporter: str
) -> None:
    made = train_strategy(small, strategy, config(tmp_path / "run", model_folder), cell_line=LINE)
    assert set(made.keys) == {Key("nuclei", LINE, reporter), Key("cells", LINE, reporter)}
    found = segment_set(read_fields(small)[0][2].image, made, objects=["cells"])
    assert found["cells"].labels.shape == (96, 112)


def test_finished_models_are_kept(
    small: Path, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = config(tmp_path / "run", model_folder)
    stopped = strategies.run_stage
    seen: list[Path] = []

    def stop_at_third(*arguments: Any, **rest: Any) -> Any:
        seen.append(arguments[2].out)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return stopped(*arguments, **rest)

    monkeypatch.setattr(strategies, "run_stage", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        train_strategy(small, "channel-wise", options, cell_line=LINE)
    before = ModelSet.load(tmp_path / "run" / "set")
    assert len(before.keys) == 1
    monkeypatch.setattr(strategies, "run_stage", stopped)
    trained: list[str] = []
    fresh = self_training.train
    monkeypatch.setattr(self_training, "train", lambda *a, **k: (trained.append(a[1].out.name), fresh(*a, **k))[1])
    made = train_strategy(small, "channel-wise", options, cell_line=LINE, resume=True)
    assert len(trained) == 3
    assert len(made.keys) == 4
    for key in before.keys:
        assert before.model(key).hash == made.model(key).hash
    train_strategy(small, "channel-wise", options, cell_line=LINE, resume=True)
    assert len(trained) == 3


def test_cell_lines_are_sub_folders(tmp_path: Path, pictures: list[Any], model_folder: Path) -> None:
    root = tmp_path / "both"
    for line, names in (("U2OS", ("P1", "P2", "P3")), ("A375", ("P1", "P3", "P4"))):
        for k in range(2):
            pixels, labels = pictures[k]
            write_field(root / line, f"f{k}", pixels, names, {"cells": labels["cells"]})
    options = config(tmp_path / "run", model_folder, validation=0.0)
    made = train_strategy(root, "grayscale", options)
    assert set(made.keys) == {Key("cells", line, AVERAGE) for line in ("A375", "U2OS")}
    train_strategy(root, "grayscale", replace(options, out=tmp_path / "one"), cell_line="A375")
    assert ModelSet.load(tmp_path / "one" / "set").cell_lines == ("A375",)
    with pytest.raises(InputError, match=r"no folder of the cell line 'HeLa'; it has A375, U2OS"):
        train_strategy(root, "grayscale", options, cell_line="HeLa")


def test_what_is_missing_is_said(small: Path, tmp_path: Path, model_folder: Path, pictures: list[Any]) -> None:
    options = config(tmp_path / "run", model_folder)
    with pytest.raises(InputError, match="--cell-line"):
        train_strategy(small, "channel-wise", options)
    with pytest.raises(InputError, match="choose from channel-wise"):
        train_strategy(small, "all", options, cell_line=LINE)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"images/x\.tif"):
        train_strategy(small / "images", "channel-wise", options)
    with pytest.raises(InputError, match="cannot be the name of a cell line"):
        train_strategy(small, "channel-wise", options, cell_line="U2OS, WT")
    for place in ("lines/A375", "lines/U2OS", "judged/A375"):
        shutil.copytree(small, tmp_path / place)
    with pytest.raises(InputError, match="has no images of U2OS; it has A375"):
        train_strategy(tmp_path / "lines", "channel-wise", options, validation=tmp_path / "judged")
    bare = tmp_path / "bare"
    write_field(bare, "a", pictures[0][0], ("", "", ""), {"cells": pictures[0][1]["cells"]})
    with pytest.raises(InputError, match="--reporters P1,P2,P3"):
        read_fields(bare)
    assert read_fields(bare, ["A", "B", "C"])[0][0].reporters == ("A", "B", "C")
    with pytest.raises(InputError, match="a name of its own"):
        read_fields(bare, ["GFP", "B", "g fp"])
    with pytest.raises(InputError, match="has 3 channels, and these are 2 reporters"):
        read_fields(bare, ["A", "B"])


def test_folders_of_runs_differ() -> None:
    names = ["P1", "P/1", "P%1", "P_1", "../P1"]
    assert len({folder_name(Key("cells", LINE, name)) for name in names}) == len(names)
    assert all("/" not in folder_name(Key("cells", LINE, name)) for name in names)
