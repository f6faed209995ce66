"""`choose_channels`: every subset and method scored, as if each had been segmented by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cell_segmenters import branch
from cellweave.core.errors import InputError, ModelError
from cellweave.core.image import Image
from cellweave.metrics import evaluate, match
from cellweave.models import Choice, ModelSet, Segmenter, Training, fit_calibration
from cellweave.models.model_set import FUSION_METHODS
from cellweave.predict import channel_choice, fused, segment_set
from cellweave.predict.channel_choice import ChannelChoice, choose_channels
from cellweave.predict.fused import named

NAMES = ("A", "B", "C", "D")
WHAT: Any = {"object": "nuclei", "cell_line": "U2OS", "device": "cpu"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Segmenter) -> ModelSet:
    zoo = ModelSet.create(tmp_path_factory.mktemp("sets") / "zoo")
    for name in NAMES:
        where = {"object": "nuclei", "cell_line": "U2OS", "reporter": name}
        zoo = zoo.add(tiny_model, **where, training=Training(24.0))
    return zoo


@pytest.fixture(scope="module")
def labelled(domes: Callable[..., Any]) -> tuple[list[Image], list[NDArray[np.int32]]]:
    """Two images; each channel lacks other cells, B has false ones, the second image lacks channel C."""
    images, truth = [], []
    for seed in (1, 2):
        picture, labels = domes(seed, (130, 140), 9)
        false, _ = domes(seed + 50, (130, 140), 3)
        dark = [np.where(np.isin(labels, ids), 100, picture) for ids in ([1, 2, 3], [], [4, 5], [1, 6, 7, 8, 9])]
        dark[1] = np.where(labels > 0, dark[1], false)
        names = list(NAMES if seed == 1 else "ABD")
        images.append(Image(np.stack([dark[NAMES.index(n)] for n in names]), channel_names=tuple(names)))
        truth.append(labels)
    return images, truth


@pytest.fixture(scope="module")
def found(models: ModelSet, labelled: Any) -> ChannelChoice:
    return choose_channels(*labelled, models, **WHAT)


def test_every_subset_and_method_is_scored(found: ChannelChoice) -> None:
    subsets = [s for n in range(1, 5) for s in combinations(NAMES, n)]
    expected = [(s, m) for s in subsets for m in (FUSION_METHODS if len(s) > 1 else FUSION_METHODS[:1])]
    assert sorted((row.reporters, row.method) for row in found.rows) == sorted(expected)
    assert found.reporters == NAMES
    assert not found.greedy
    assert found.n_images == 2
    assert found.left_out == ()


def test_figures_are_those_of_segmenting_with_that_choice(
    found: ChannelChoice, models: ModelSet, labelled: Any
) -> None:
    images, truth = labelled
    for row in found.rows[:: max(1, len(found.rows) // 12)]:
        if row.reporters == ("C",):
            continue  # the second image has no such channel, and segment_set takes others then
        chosen = replace(models, choices={("nuclei", "U2OS"): Choice(row.reporters, row.method)})
        predicted = [segment_set(image, chosen, device="cpu")["nuclei"].labels for image in images]
        total = evaluate(truth, predicted).total
        assert row.f1 == total.at(0.5).f1
        assert row.row()["precision"] == total.at(0.5).precision
        assert row.row()["recall"] == total.at(0.5).recall
        assert row.row()["jaccard"] == total.jaccard
        assert row.row()["n_predicted"] == total.n_predicted


def test_the_scores_of_a_fusion_are_calibrated(
    models: ModelSet, labelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `segment_set` gives them, on the images that have all chosen channels; what is alone keeps its own."""
    monkeypatch.setattr(channel_choice, "FEWEST", 0)
    images, truth = (
        [named(image, [n if n in "AB" else "" for n in image.channel_names]) for image in labelled[0]],
        labelled[1],
    )
    found = choose_channels(images, truth, models, **WHAT, methods=["flow_fusion"])
    [both] = found.of(("A", "B"))
    scores, hits = [], []
    for image, labels in zip(images, truth, strict=True):
        chosen = replace(models, choices={("nuclei", "U2OS"): Choice(("A", "B"))})
        result = segment_set(image, chosen, device="cpu")["nuclei"]
        scores.append(result.confidence)
        hits.append(np.isin(np.arange(1, result.count + 1), match(labels, result.labels, 0.5).predicted_ids))
    expected = fit_calibration(np.concatenate(scores), np.concatenate(hits))
    table = channel_choice._Table(models, "nuclei", "U2OS", Path())
    for image, labels in zip(images, truth, strict=True):
        table.add(image, labels, "cpu")
    assert table.calibration(both) == expected
    assert table.calibration(found.of(("A",))[0]) is None
    assert found.choice.calibration == (expected if found.best == both else None)
    assert 0 < np.concatenate(hits).mean() < 1
    monkeypatch.setattr(channel_choice, "FEWEST", 100)
    assert table.calibration(both) is None


def test_the_best_comes_first_and_is_the_choice(found: ChannelChoice) -> None:
    assert [row.f1 for row in found.rows] == sorted((row.f1 for row in found.rows), reverse=True)
    ties = [row for row in found.rows if row.f1 == found.best.f1]
    assert len(found.best.reporters) == min(len(row.reporters) for row in ties)
    single = max(row.f1 for row in found.rows if len(row.reporters) == 1)
    assert found.best.f1 >= single
    choice = found.choice
    assert (choice.reporters, choice.method) == (found.best.reporters, found.best.method)
    assert choice.scores["f1"] == pytest.approx(found.best.f1, abs=1e-4)
    assert choice.scores["images"] == 2


def test_an_image_without_the_channel_counts_as_nothing_found(found: ChannelChoice, labelled: Any) -> None:
    [alone] = found.of(("C",))
    assert alone.total.n_true == sum(int(labels.max()) for labels in labelled[1])
    assert alone.row()["recall"] < 0.5 + 1e-9
    [with_b] = [row for row in found.of(("C", "B")) if row.method == "flow_fusion"]
    assert with_b.reporters == ("B", "C")


def test_maps_are_predicted_once(models: ModelSet, labelled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    predict = fused.predict_maps
    monkeypatch.setattr(fused, "predict_maps", lambda *a, **k: seen.append(1) or predict(*a, **k))
    choose_channels(*labelled, models, **WHAT, methods=["flow_fusion"])
    assert len(seen) == 4 + 3


def test_maps_that_do_not_fit_in_memory(
    models: ModelSet, labelled: Any, found: ChannelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_choice, "IN_MEMORY", 300_000)
    kinds = []
    fuse = channel_choice.flow_fusion
    monkeypatch.setattr(channel_choice, "flow_fusion", lambda m: kinds.extend(map(type, m)) or fuse(m))
    again = choose_channels(*labelled, models, **WHAT, methods=["flow_fusion"])
    assert {np.memmap, np.ndarray} == set(kinds)
    expected = [row for row in found.rows if row.method == "flow_fusion"]
    assert again.rows == tuple(expected)


@pytest.mark.parametrize("methods", [("flow_fusion",), ("pixel_voting", "majority_voting")])
def test_the_greedy_search(
    models: ModelSet, labelled: Any, found: ChannelChoice, monkeypatch: pytest.MonkeyPatch, methods: Any
) -> None:
    monkeypatch.setattr(channel_choice, "MOST_CHANNELS", 3)
    greedy = choose_channels(*labelled, models, **WHAT, methods=methods)
    assert greedy.greedy
    table = {(row.reporters, row.method): row.f1 for row in found.rows}
    for row in greedy.rows:
        assert len(row.reporters) == 1 or row.f1 == table[row.reporters, row.method]
    have = {"A"}, *({n} for n in "BCD")
    f1 = {
        frozenset(s): max(table[t, m] for t, m in table if set(t) == s and (len(t) == 1 or m in methods)) for s in have
    }
    best = max(f1, key=lambda s: f1[s])
    seen = set(f1) | {frozenset(NAMES)}
    while len(best) < 3:
        step = {
            best | {n}: max(table[t, m] for t, m in table if set(t) == best | {n} and m in methods)
            for n in set(NAMES) - best
        }
        seen |= set(step)
        larger = max(step, key=lambda s: step[s])
        if step[larger] <= max(table[t, m] for t, m in table if set(t) == best and (len(t) == 1 or m in methods)):
            break
        best = larger
    assert {frozenset(row.reporters) for row in greedy.rows} == seen
    assert len(greedy.rows) == len({(row.reporters, row.method) for row in greedy.rows})
    assert set(greedy.best.reporters) in [set(best), set(NAMES)]


def test_images_that_cannot_be_used_are_left_out(models: ModelSet, labelled: Any) -> None:
    images, truth = labelled
    strange = replace(images[0], channel_names=("w", "x", "y", "z"), source="strange.tif")
    small = replace(images[0], source="small.tif")
    result = choose_channels(
        [strange, images[1], small], [truth[0], truth[1], truth[0][:50]], models, **WHAT, methods=["staple"]
    )
    assert result.n_images == 1
    assert len(result.left_out) == 2
    assert "strange.tif" in result.left_out[0]
    assert "small.tif is 130 x 140, and its labels 50 x 140" in result.left_out[1]
    with pytest.raises(ModelError, match=r"strange\.tif"):
        choose_channels([strange], truth[:1], models, **WHAT)


def test_maps_of_different_kinds_leave_flow_fusion_out(tmp_path: Path, tiny_model: Segmenter, labelled: Any) -> None:
    zoo = ModelSet.create(tmp_path / "z")
    for name, model in (("A", tiny_model), ("B", branch(1))):
        zoo = zoo.add(model, object="nuclei", cell_line="U2OS", reporter=name)
    images, truth = (some[:1] for some in labelled)
    result = choose_channels(images, truth, zoo, **WHAT)
    assert {row.method for row in result.of(("A", "B"))} == set(FUSION_METHODS[1:])
    with pytest.raises(InputError, match="cannot be averaged"):
        choose_channels(images, truth, zoo, **WHAT, methods=["flow_fusion"])


def test_what_is_wrong_is_said(models: ModelSet, labelled: Any) -> None:
    images, truth = labelled
    with pytest.raises(InputError, match=r"'mean' is unknown; choose from flow_fusion"):
        choose_channels(images, truth, models, **WHAT, methods=["mean"])
    with pytest.raises(InputError, match="2 images and 1 label images"):
        choose_channels(images, truth[:1], models, **WHAT)
    with pytest.raises(InputError, match="at least one"):
        choose_channels([], [], models, **WHAT)
    with pytest.raises(ModelError, match="no model for cells"):
        choose_channels(images, truth, models, object="cells", cell_line="U2OS", device="cpu")
