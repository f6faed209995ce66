"""Self-training: what the model is sure of becomes labels, shown rarely, made once, whatever happens in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cc3d
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from cellweave.core.errors import InputError, WriteError
from cellweave.core.image import Image
from cellweave.io import read_image, read_labels, read_table
from cellweave.models import Segmenter
from cellweave.predict import segment
from cellweave.train import Example, TrainConfig, check_folder, pseudo_labels, self_train, self_training
from cellweave.train.augment import sampling_weights
from cellweave.train.self_training import GROUP, begin, group_shares, run_stage

pytestmark = pytest.mark.usefixtures("one_thread")
CPU: dict[str, Any] = {"device": "cpu", "min_confidence": 0.1}


@pytest.fixture
def model(model_folder: Path) -> Segmenter:
    return Segmenter.load(model_folder)


@pytest.fixture
def unlabelled(tmp_path: Path, domes: Callable[..., Any]) -> Path:
    """Three pictures of cells, the largest of 130 x 150 px in a sub-folder, beside files that are no images."""
    folder = tmp_path / "unlabelled"
    (folder / "slides").mkdir(parents=True)
    for name, shape in (("a", (60, 64)), ("b", (64, 50)), ("slides/c", (130, 150))):
        picture, labels = domes(ord(name[-1]), shape, 5)
        tifffile.imwrite(folder / f"{name}.tif", picture)
    tifffile.imwrite(folder / "a_masks.tif", labels.astype(np.uint16))
    (folder / "notes.txt").write_text("hello")
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Image]:
    """Every image that is segmented."""
    made: list[Image] = []

    def counted(image: Image, *arguments: Any, **options: Any) -> Any:
        made.append(image)
        return segment(image, *arguments, **options)

    monkeypatch.setattr(self_training, "segment", counted)
    monkeypatch.setattr(self_training, "PATCH", 80)
    return made


def names(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("length", [1, 639, 640, 641, 1280, 1281, 54321])
def test_pieces_cover_an_axis_and_are_of_equal_sizes(length: int) -> None:
    pieces = self_training._pieces(length)
    assert [k for s in pieces for k in (s.start, s.stop)][1:-1] == [s.stop for s in pieces[:-1] for _ in (0, 1)]
    assert (pieces[0].start, pieces[-1].stop) == (0, length)
    sizes = [s.stop - s.start for s in pieces]
    assert max(sizes) <= 640
    assert max(sizes) - min(sizes) <= 1
    assert len(pieces) == -(-length // 640)


def test_patches_are_cut_out_segmented_and_written(
    model: Segmenter, unlabelled: Path, tmp_path: Path, calls: list[Image]
) -> None:
    made = pseudo_labels(model, unlabelled, tmp_path / "out", **CPU)
    assert made.patches == len(calls) == 1 + 1 + 4
    assert made.problems == ()
    summary = read_table(tmp_path / "out" / "patches.csv")
    assert len(summary["patch"]) == 6
    pixels = {str(file): read_image(file).read() for file in unlabelled.rglob("*.tif")}
    examples = {example.name: example for example in made.examples}
    assert 3 <= len(examples) <= 6
    for k, name in enumerate(summary["patch"].tolist()):
        source, y, x = (summary[column][k] for column in ("file", "y", "x"))
        if summary["objects"][k] == 0:
            assert name not in examples
            continue
        example = examples[name]
        height, width = example.labels.shape
        part = pixels[str(source)][:, y : y + height, x : x + width]
        assert np.array_equal(example.image.read(), part)
        found = segment(Image(part), model, **CPU)
        assert np.array_equal(example.labels, found.labels)
        assert example.weight == pytest.approx(found.confidence.mean(), rel=1e-6)
        assert summary["confidence"][k] == pytest.approx(example.weight)
        assert found.confidence.min() >= 0.1
        assert example.group == "pseudo"
    assert check_folder(tmp_path / "out").ok  # a folder that any training reads
    assert list((tmp_path / "out").rglob(".*")) == []


def test_a_patch_that_is_there_is_not_made_again(
    model: Segmenter, unlabelled: Path, tmp_path: Path, calls: list[Image]
) -> None:
    out = tmp_path / "out"
    first, before = pseudo_labels(model, unlabelled, out, **CPU), names(out)
    calls.clear()
    again = pseudo_labels(model, unlabelled, out, **CPU)
    assert calls == []
    assert names(out) == before
    assert [(e.name, e.weight) for e in again.examples] == [(e.name, e.weight) for e in first.examples]
    tables = sorted((out / "confidence").iterdir())
    tables[2].unlink()
    pseudo_labels(model, unlabelled, out, **CPU)
    assert len(calls) == 1
    assert names(out).keys() == before.keys()
    calls.clear()
    pseudo_labels(model, unlabelled, out, device="cpu", min_confidence=0.2)
    assert calls == []  # other objects are unknown now, in the same labels
    pseudo_labels(replace(model, hash="another"), unlabelled, out, device="cpu", min_confidence=0.2)
    assert len(calls) == 6


def test_doubtful_objects_and_patches_without_sure_ones_are_left_out(
    model: Segmenter, unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_training, "PATCH", 80)
    every = pseudo_labels(model, unlabelled, tmp_path / "a", **CPU)
    scores = np.concatenate([read_table(f)["confidence"] for f in sorted((tmp_path / "a" / "confidence").iterdir())])
    middle = float(np.median(scores))
    some = pseudo_labels(model, unlabelled, tmp_path / "b", device="cpu", min_confidence=middle)
    assert sum(e.labels.max() for e in some.examples) == np.count_nonzero(scores >= middle) < len(scores)
    assert all(e.weight >= middle for e in some.examples)
    for one in some.examples:
        whole = read_labels(tmp_path / "b" / "labels" / f"{one.name}.tif")
        doubtful = (whole > 0) & (one.outlines == 0)
        assert one.known is not None or not doubtful.any()
        if one.known is not None:
            assert not one.known[doubtful].any()
            assert one.known[one.outlines > 0].all()
            assert one.known[distance_transform_edt(~doubtful) > 2 * self_training.AROUND].all()
    assert f"{len(every.examples)} of 6 patches" in str(every)
    tifffile.imwrite(tmp_path / "dark.tif", np.zeros((64, 64), np.uint16))
    none = pseudo_labels(model, [tmp_path / "dark.tif"], tmp_path / "c", **CPU)
    assert none.examples == []
    assert str(none) == "0 of 1 patches with 0 cells in all"


def test_a_bad_file_is_told_and_the_others_are_used(
    model: Segmenter, unlabelled: Path, tmp_path: Path, calls: list[Image], caplog: pytest.LogCaptureFixture
) -> None:
    whole = (unlabelled / "b.tif").read_bytes()
    (unlabelled / "b.tif").write_bytes(b"")
    (unlabelled / "cut.tif").write_bytes(whole[: len(whole) // 2])
    tifffile.imwrite(unlabelled / "film.tif", np.zeros((4, 20, 20), np.uint16), imagej=True, metadata={"axes": "TYX"})
    made = pseudo_labels(model, unlabelled, tmp_path / "out", **CPU)
    assert len(made.problems) == 3
    for name in ("b.tif", "cut.tif", "film.tif"):
        assert sum(name in problem for problem in made.problems) == 1
        assert name in caplog.text
    assert "3 files could not be used" in str(made)
    assert {Path(image.source.split(" [")[0]).name for image in calls} >= {"a.tif", "c.tif"}
    (unlabelled / "b.tif").write_bytes(whole)  # repaired
    calls.clear()
    made = pseudo_labels(model, unlabelled, tmp_path / "out", **CPU)
    assert len(made.problems) == 2
    assert [Path(image.source.split(" [")[0]).name for image in calls if "cut" not in image.source] == ["b.tif"]


def test_what_cannot_be_done_is_told(model: Segmenter, unlabelled: Path, tmp_path: Path, domes: Any) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="there is no image in this folder"):
        pseudo_labels(model, tmp_path / "empty", tmp_path / "out", **CPU)
    with pytest.raises(InputError, match="there is no such folder"):
        pseudo_labels(model, tmp_path / "nowhere", tmp_path / "out", **CPU)
    with pytest.raises(InputError, match=r"none of the unlabelled images can be used:\n.*x\.png"):
        pseudo_labels(model, tmp_path / "bad", tmp_path / "out", **CPU)
    with pytest.raises(InputError, match="no unlabelled image"):
        pseudo_labels(model, [], tmp_path / "out", **CPU)
    with pytest.raises(InputError, match="limit is 0"):
        pseudo_labels(model, unlabelled, tmp_path / "out", limit=0)
    with pytest.raises(InputError, match="save it first"):
        pseudo_labels(replace(model, hash=""), unlabelled, tmp_path / "out")
    (tmp_path / "mine" / "images").mkdir(parents=True)
    (tmp_path / "mine" / "images" / "precious.tif").touch()
    with pytest.raises(InputError, match="holds images or labels of another origin"):
        pseudo_labels(model, unlabelled, tmp_path / "mine", **CPU)
    assert (tmp_path / "mine" / "images" / "precious.tif").exists()


def test_a_full_disk_ends_it(
    model: Segmenter, unlabelled: Path, tmp_path: Path, full_disk: Callable[[int], Any], calls: list[Image]
) -> None:
    pseudo_labels(model, [unlabelled / "a.tif"], tmp_path / "out", **CPU)
    (patch,) = (tmp_path / "out" / "images").iterdir()
    with full_disk(patch.stat().st_size - 100), pytest.raises(WriteError, match="images"):
        pseudo_labels(model, [unlabelled / "a.tif"], tmp_path / "other", **CPU)
    assert list((tmp_path / "other" / "images").iterdir()) == []
    assert list((tmp_path / "other" / "confidence").iterdir()) == []


class Slide:
    """A slide of 3 x 30,000 x 50,000 px, of which nobody may read more than a patch."""

    shape, dtype = (3, 30_000, 50_000), np.dtype(np.uint8)

    def __getitem__(self, key: tuple[Any, ...]) -> NDArray[np.uint8]:
        _, y, x = (range(*k.indices(n)) for k, n in zip(key, self.shape, strict=True))
        assert len(y) <= 640
        assert len(x) <= 640
        return np.full((3, len(y), len(x)), (y[0] + x[0]) % 200, np.uint8)


def test_a_slide_is_never_read_whole(model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slide.tif").touch()
    seen: list[Image] = []

    def find_nothing(image: Image, *_: Any, **__: Any) -> Any:
        seen.append(image)
        return SimpleNamespace(count=0, confidence=np.zeros(0, np.float32))

    monkeypatch.setattr(self_training, "segment", find_nothing)
    monkeypatch.setattr(self_training, "read_image", lambda file: Image(Slide(), color=True, source=str(file)))
    made = pseudo_labels(model, [tmp_path / "slide.tif"], tmp_path / "out", limit=7, device="cpu")
    assert made.patches == len(seen) == 7
    assert all(image.color and image.height > 600 and image.width > 600 for image in seen)
    assert len({image.source for image in seen}) == 7
    assert made.examples == []


def test_of_too_many_patches_all_images_give_as_many_as_they_have() -> None:
    def some(n: int, file: str) -> list[Any]:
        return [self_training._Patch(Path(file), slice(k, k + 1), slice(0, 1), f"{file}{k}") for k in range(n)]

    patches = [some(1, "a"), some(50, "b"), some(3, "c"), some(50, "d")]
    chosen = self_training._chosen(patches, 20, seed=3)
    counts = {file: sum(patch.file.name == file for patch in chosen) for file in "abcd"}
    assert (counts["a"], counts["c"], counts["b"] + counts["d"]) == (1, 3, 16)
    assert abs(counts["b"] - counts["d"]) <= 1
    assert [p.file.name for p in chosen] == sorted(p.file.name for p in chosen)
    assert chosen == self_training._chosen(patches, 20, seed=3) != self_training._chosen(patches, 20, seed=4)
    assert self_training._chosen(patches, 1000, seed=3) == [p for some in patches for p in some]


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float64, np.bool_, np.float16])
def test_a_patch_is_written_as_it_is(tmp_path: Path, color: bool, kind: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 2 if kind == np.bool_ else 250, (3, 11, 17)).astype(kind)
    names = ("red", "green", "blue") if color else ("DAPI", "GFP", "actin")
    image = Image(pixels, channel_names=names, pixel_size_um=(0.5, 0.25), color=color)
    self_training._write_image(tmp_path / "x.tif", image)
    back = read_image(tmp_path / "x.tif")
    assert np.array_equal(back.read().astype(np.float64), pixels.astype(np.float64))
    assert (back.color, back.channel_names) == (color, names)
    assert back.pixel_size_um == pytest.approx((0.5, 0.25))


def example(group: str, weight: float = 1.0) -> Example:
    return Example("x", Image(np.zeros((1, 4, 4), np.uint8)), np.zeros((4, 4), np.int32), group, weight)


def probabilities(labelled: list[Example], pseudo: list[Example], **options: Any) -> NDArray[np.float64]:
    """Of every example, as the training draws them."""
    every = [*labelled, *pseudo]
    shares = group_shares(labelled, pseudo, **options)
    return sampling_weights([e.group for e in every], shares, [e.weight for e in every])


def test_probabilities_by_hand() -> None:
    """Four labelled images and patches of the weights 0.5, 0.9, 0.6: 2 / (8 * 4 + 2) of the crops are of patches."""
    labelled = [example("a")] * 4
    pseudo = [example(GROUP, weight) for weight in (0.5, 0.9, 0.6)]
    found = probabilities(labelled, pseudo)
    assert found == pytest.approx([8 / 34] * 4 + [0.5 / 34, 0.9 / 34, 0.6 / 34])
    found = probabilities(labelled, pseudo, oversample=30.0)
    assert found == pytest.approx([30 / 122] * 4 + [0.5 / 122, 0.9 / 122, 0.6 / 122])


def test_pseudo_labels_leave_the_groups_their_proportions() -> None:
    labelled = [example("a")] * 9 + [example("b")] * 4 + [example("c")]
    pseudo = [example(GROUP, 0.8)] * 100
    for weights in (None, {"a": 0.1, "b": 0.2, "c": 0.7}, {"a": 0.5}, {"b": 0.0}, {"a": 7.0, "b": 3.0, "c": 0.0}):
        alone = probabilities(labelled, [], weights=weights)
        both = probabilities(labelled, pseudo, weights=weights)
        share = 80 / (8 * 14 + 80)
        assert both[:14] == pytest.approx((1 - share) * alone)
        assert both[14:] == pytest.approx(share / 100)
        assert both[:14].mean() / (both[14:].mean() / 0.8) == pytest.approx(8)


def test_groups_that_are_not_there_have_no_share() -> None:
    labelled, pseudo = [example("a")] * 2, [example(GROUP, 0.5)]
    assert group_shares(labelled, []) is None
    assert group_shares(labelled, [], weights={"a": 0.3, "b": 0.7}) == {"a": 0.3}
    assert group_shares(labelled, [], weights={"a": 0.0, "b": 1.0}) is None
    assert group_shares(labelled, pseudo, weights={"b": 1.0}) == pytest.approx({"a": 16 / 16.5, GROUP: 0.5 / 16.5})


def test_wrong_shares_are_told() -> None:
    with pytest.raises(InputError, match="oversample is 0"):
        group_shares([example("a")], [], oversample=0)
    with pytest.raises(InputError, match="'pseudo' is the name of what the model labels"):
        group_shares([example(GROUP)], [])


def settings(out: Path, **options: Any) -> TrainConfig:
    quick: dict[str, Any] = {"epochs": 6, "batch_size": 2, "crop": 32, "width": 0.0625, "validation": 0.34}
    return TrainConfig(out=out, device="cpu", learning_rate=0.01, **(quick | options))


@pytest.fixture
def examples(domes: Callable[..., Any]) -> list[Example]:
    made = [domes(k, (60, 70), 4) for k in range(3)]
    return [Example(f"{k}", Image(picture[None]), labels) for k, (picture, labels) in enumerate(made)]


def test_a_stage_is_made_once(examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, bool]] = []

    def quick(data: list[Example], config: TrainConfig, *, resume: bool, **_: Any) -> Segmenter:
        made.append((config.out.name, resume))
        return self_training_start(config).with_(name=f"{len(made)}").save(config.out / "model")

    from cellweave.train.api import start as self_training_start

    monkeypatch.setattr(self_training, "train", quick)
    first = settings(tmp_path / "first")
    run_stage(examples, [], first, resume=False)
    second = settings(tmp_path / "second", base=str(tmp_path / "first" / "model"))
    run_stage(examples, [], second, resume=False)
    assert [run_stage(examples, [], some, resume=True).name for some in (first, second)] == ["1", "2"]
    assert made == [("first", False), ("second", False)]
    run_stage(examples, [], replace(first, seed=1), resume=False)  # other weights
    assert run_stage(examples, [], second, resume=True).name == "4"  # so what was made of them is old
    for file in tmp_path.rglob("stage.json"):
        file.write_text("{")
    (tmp_path / "second" / "checkpoint.pt").touch()
    run_stage(examples, [], second, resume=True)
    assert made[4:] == [("second", False)]
    key = json.loads((tmp_path / "second" / "stage.json").read_text())
    (tmp_path / "second" / "stage.json").write_text(json.dumps(key | {"model": ""}))  # stopped before its end
    run_stage(examples, [], second, resume=True)
    assert made[5:] == [("second", True)]
    for other in (examples[:2], [*examples[:2], replace(examples[2], labels=examples[2].labels * 0)]):
        with pytest.raises(InputError, match=r"stage\.json: images or labels have changed since"):
            run_stage(other, [], second, resume=True)
    with pytest.raises(InputError, match="images or labels have changed"):
        run_stage(examples, examples[:1], second, resume=True)
    file = tmp_path / "second" / "stage.json"
    file.write_text(
        json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "data"})
    )  # of an earlier version
    assert run_stage(examples[:2], [], second, resume=True).name == "6"
    file.unlink()  # a model that was put there
    assert run_stage(examples, [], second, resume=True).name == "6"


@pytest.mark.parametrize("finished", [True, False])
def test_a_stage_of_other_settings_is_not_thrown_away(examples: list[Example], tmp_path: Path, finished: bool) -> None:
    config = settings(tmp_path / "stage", epochs=2)
    run_stage(examples, [], config, resume=False)
    if not finished:
        file = tmp_path / "stage" / "stage.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model": ""}))
    before = {path: path.read_bytes() for path in (tmp_path / "stage").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"was started with other settings \(seed=0\)"):
        run_stage(examples, [], replace(config, seed=5), resume=True)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert run_stage(examples, [], config, resume=True).hash


def test_stages_are_replaced_only_if_that_is_said(examples: list[Example], tmp_path: Path) -> None:
    """A run of one stage, and one of several, in which a stage has begun."""
    (tmp_path / "run" / "teacher").mkdir(parents=True)
    (tmp_path / "run" / "teacher" / "checkpoint.pt").touch()
    teacher = settings(tmp_path / "run" / "teacher")
    with pytest.raises(InputError, match="teacher holds a run already"):
        run_stage(examples, [], teacher, resume=False)
    with pytest.raises(InputError, match="teacher holds a run already"):
        self_train(examples, settings(tmp_path / "run"), tmp_path)
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["teacher", "checkpoint.pt"]
    begin(settings(tmp_path / "run", overwrite=True), "self-training.json", {}, False)
    assert (tmp_path / "run" / "self-training.json").is_file()


def bright_parts(image: Image, *_: Any, **__: Any) -> Any:
    """In the place of `segment`, so that no long training is needed."""
    labels = cc3d.connected_components(image.read()[0] > 250, connectivity=4).astype(np.int32)
    n = int(labels.max())
    return SimpleNamespace(count=n, labels=labels, confidence=np.linspace(0.6, 0.9, n))


RUN = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
import cc3d
import numpy as np
import torch
torch.set_num_threads(1)
from cellweave.train import TrainConfig, self_train, self_training
def slowly(image, *_, **__):
    time.sleep(0.5)
    labels = cc3d.connected_components(image.read()[0] > 250, connectivity=4).astype(np.int32)
    n = int(labels.max())
    return SimpleNamespace(count=n, labels=labels, confidence=np.linspace(0.6, 0.9, n))
self_training.segment = slowly
config = TrainConfig.from_json(Path(sys.argv[1]).read_text())
self_train(sys.argv[2], config, sys.argv[3])
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_a_killed_self_training_goes_on(
    examples: list[Example], unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it labels: the teacher is not trained again, no patch labelled twice, the result is the same."""
    data = tmp_path / "data"
    data.mkdir()
    for one in examples:
        tifffile.imwrite(data / f"{one.name}.tif", one.image.read()[0])
        tifffile.imwrite(data / f"{one.name}_masks.tif", one.labels.astype(np.uint16))
    killed, file = tmp_path / "killed" / "run", tmp_path / "config.json"
    file.write_text(settings(killed).to_json())
    tables = killed / "pseudo-labels" / "confidence"
    with subprocess.Popen(
        [sys.executable, "-c", RUN, file, data, unlabelled], env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline and not any(tables.glob("[!.]*")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    there = {path.name: path.stat().st_mtime_ns for path in tables.glob("[!.]*")}
    teacher = (killed / "teacher" / "model" / "model.safetensors").stat().st_mtime_ns
    assert 1 <= len(there) < 3

    calls: list[Image] = []

    def counted(image: Image, *_: Any, **__: Any) -> Any:
        calls.append(image)
        return bright_parts(image)

    monkeypatch.setattr(self_training, "segment", counted)
    model = self_train(data, settings(killed), unlabelled, resume=True)
    assert len(calls) == 3 - len(there)
    assert all((tables / name).stat().st_mtime_ns == time_ for name, time_ in there.items())
    assert (killed / "teacher" / "model" / "model.safetensors").stat().st_mtime_ns == teacher
    unbroken = self_train(data, settings(tmp_path / "whole" / "run"), unlabelled)
    assert model.hash == unbroken.hash
    assert "3 of 3 patches with" in model.card["Pseudo-labels"]
    assert model.card["Recipe"]["epochs"] == "1"
    assert Segmenter.load(killed / "model").hash == model.hash
    with pytest.raises(InputError, match=r"self-training\.json was started with other settings \(seed=0\)"):
        self_train(data, settings(killed, seed=1), unlabelled, resume=True)
    with pytest.raises(InputError, match="nothing to resume"):
        self_train(data, settings(tmp_path / "new"), unlabelled, resume=True)


def test_a_model_that_finds_nothing_cannot_teach(
    examples: list[Example], unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: Any, **__: Any) -> Segmenter:
        return SimpleNamespace(hash="x")  # type: ignore[return-value]

    monkeypatch.setattr(self_training, "run_stage", trained)
    monkeypatch.setattr(self_training, "pseudo_labels", lambda *_, **__: self_training.PseudoLabels([], 3))
    with pytest.raises(InputError, match=r"found no cell .* it is in .*teacher.model, without self-training"):
        self_train(examples, settings(tmp_path / "run"), unlabelled)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without torchrun"):
        self_train(examples, settings(tmp_path / "run"), unlabelled)


def test_settings_of_a_run_are_kept(tmp_path: Path) -> None:
    """A run may begin with the finished model of a stage; its settings count from then on."""
    self_training.begin(settings(tmp_path / "a"), "run.json", {"oversample": 8.0}, False)
    self_training.begin(settings(tmp_path / "a"), "run.json", {"oversample": 8.0}, True)
    with pytest.raises(InputError, match=r"other settings \(epochs=6, oversample=8\.0\)"):
        self_training.begin(settings(tmp_path / "a", epochs=9), "run.json", {"oversample": 9.0}, True)
    (tmp_path / "b" / "general" / "model").mkdir(parents=True)
    self_training.begin(settings(tmp_path / "b"), "run.json", {}, True)
    with pytest.raises(InputError, match="other settings"):
        self_training.begin(settings(tmp_path / "b", crop=64), "run.json", {}, True)
