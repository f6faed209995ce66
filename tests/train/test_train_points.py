"""`train` from points: a model that counts, its card and calibration, and where only some cells were clicked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.points import DEBRIS, LIVE, Points
from cellweave.core.progress import showing
from cellweave.models import Segmenter, load_segmenter
from cellweave.models.count_calibration import CountCalibration
from cellweave.nets import FastUNet
from cellweave.predict import predict_maps, segment
from cellweave.predict.counting import count
from cellweave.representations import DiffusionFlows, Heatmap, known_region
from cellweave.train import Example, TrainConfig, prepare_only, train
from cellweave.train.api import start
from cellweave.train.counts import fit_decoding, fit_gain, judge_counts, shrunk_ratio
from cellweave.train.pseudo_masks import outlined
from clicks import dots, write_dots
from dots import dots_model, dots_picture, scattered


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A narrow net, and one thread, so that sums are added in one order."""
    nets = {"FastUNet": lambda **options: FastUNet(**({"widths": (4, 8, 8, 8)} | options))}
    monkeypatch.setattr("cellweave.train.api.NETS", nets)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(out: Path, **options: Any) -> TrainConfig:
    settings = {"target": "points", "sigma": 3.0, "epochs": 1, "batch_size": 4, "crop": 48, "device": "cpu"} | options
    return TrainConfig(out=out, **settings)


def quietly(*arguments: Any, **options: Any) -> Segmenter:
    with showing(lambda *_: None):
        return train(*arguments, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dots(tmp_path_factory.mktemp("dots"), range(16))


def test_a_trained_model_counts_better_than_a_constant(folder: Path, tmp_path: Path) -> None:
    held_out = [dots(k) for k in range(100, 112)]
    settings = config(tmp_path / "run", epochs=12, crop=64, recipe="adam", augmentation="square")
    model = quietly(folder, settings, validation=held_out)
    assert isinstance(model.representation, Heatmap)
    assert (model.diameter, model.size_model, model.calibration) == (0.0, None, None)
    true = np.array([len(e.labels) for e in held_out])
    usual = np.mean([len(dots(k).labels) for k in range(16)])
    found = [count(e.image, model, device="cpu", interval=None) for e in held_out]
    errors = np.abs([f.count for f in found] - true)
    assert errors.mean() < 0.5 * np.abs(usual - true).mean()
    row = model.card["Figures on the validation images"][0]
    assert row["MAE"] == pytest.approx(errors.mean(), abs=0.006)
    assert row["Cells"] == true.sum()
    assert row["F1 within 12 px"] > 0.8
    assert model.count_calibration is not None
    assert len(model.count_calibration.scores) == 12
    assert "16 images" in model.card["Training data"]
    assert "16 of 16 annotated images can be used" in (settings.out / "data.txt").read_text()

    loaded = Segmenter.load(settings.out / "model")
    assert loaded.representation == model.representation
    assert loaded.count_calibration == model.count_calibration
    assert np.array_equal(predict_maps(held_out[0].image, loaded, device="cpu"), found[0].maps)
    with pytest.raises(InputError, match=r"not their outlines.*count"):
        segment(held_out[0].image, loaded, device="cpu")
    assert len(loaded.positions.decode(found[0].maps)) == len(found[0].points)


def test_sparse_clicks_teach_as_much_where_they_are(tmp_path: Path) -> None:
    """Half of the cells are clicked. A model that takes the others for background would count half."""

    def clicked(k: int, known: bool) -> Example:
        example = dots(k)
        some = example.positions[np.arange(len(example.positions)) % 2 == 0]
        region = known_region(some, None, (80, 96), radius=4) if known else None
        return replace(example, labels=some, known=region)

    counted = []
    for known in (False, True):
        examples = [clicked(k, known) for k in range(16)]
        model = quietly(examples, config(tmp_path / str(known), epochs=10, recipe="adam", validation=0.0))
        counted.append(sum(count(dots(k).image, model, device="cpu", interval=None).count for k in range(100, 106)))
    assert counted[1] > 1.4 * counted[0]
    examples = [clicked(k, True) for k in range(100, 104)]
    row = judge_counts(model, examples, device="cpu")[1][0]
    assert row["Cells"] == sum(e.n_cells for e in examples)
    assert row["Counted"] < 2 * row["Cells"]  # only those within the known region


def faint(seed: int, share: float, *, clicked: bool) -> Example:
    """Cells, and as many objects whose peaks are lower."""
    points = scattered(seed, (120, 160), 12)
    picture = np.maximum(dots_picture(points[::2]), dots_picture(points[1::2], share))
    return Example(str(seed), Image.from_array(picture), points if clicked else points[::2])


def test_what_counts_as_a_cell_is_fitted() -> None:
    model = dots_model()
    assert fit_decoding(model, [faint(0, 1.0, clicked=True)], device="cpu") is model
    for examples in ([faint(k, 0.25, clicked=True) for k in (0, 1)], [faint(k, 0.45, clicked=False) for k in (0, 1)]):
        fitted = fit_decoding(model, examples, device="cpu")
        before, after = (judge_counts(m, examples, device="cpu")[1][0] for m in (model, fitted))
        assert before["F1 within 12 px"] < 0.75
        assert after["F1 within 12 px"] == 1
        assert before["Counted"] == after["Counted"]


@pytest.mark.parametrize("sparse", [False, True])
def test_the_gain_makes_counts_right_on_the_mean(sparse: bool) -> None:
    """Whatever the gain was before. In a known part, only what is there counts."""
    examples = [faint(k, 1.0, clicked=not sparse) for k in range(6)]
    if sparse:
        examples = [replace(e, known=known_region(e.positions, None, (120, 160), radius=9)) for e in examples]
    model = dots_model()
    for gain in (0.7, 1.0, 1.4):
        changed = model.with_(representation=replace(model.positions, gain=gain))
        fitted = fit_gain(changed, examples, device="cpu")
        row = judge_counts(fitted, examples, device="cpu")[1][0]
        assert row["Counted"] == pytest.approx(row["Cells"], rel=0.02)
    assert fit_gain(model, examples[:1], device="cpu") is model


@given(st.integers(2, 12), st.floats(0.3, 3), st.floats(0, 0.5), st.integers(0, 2**31))
def test_a_gain_is_believed_as_far_as_it_is_no_chance(n: int, ratio: float, noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counted = rng.uniform(20, 200, n)
    true = ratio * counted * (1 + noise * rng.uniform(-1, 1, n))
    whole, found = true.sum() / counted.sum(), shrunk_ratio(true, counted)
    assert min(1, whole) - 1e-9 <= found <= max(1, whole) + 1e-9
    if noise == 0:
        assert found == pytest.approx(whole)
    assert shrunk_ratio(3 * true, 3 * counted) == pytest.approx(found)  # cells have no unit


def test_a_gain_by_chance_is_none() -> None:
    assert shrunk_ratio(np.array([90.0, 130.0, 80.0, 104.0]), np.array([100.0, 100.0, 100.0, 100.0])) == 1
    assert shrunk_ratio(np.zeros(3), np.zeros(3)) == 1


def test_what_is_not_known_fits_nothing() -> None:
    example = faint(0, 0.45, clicked=False)
    known = replace(example, known=known_region(example.positions, None, (120, 160), radius=10))
    model = dots_model()
    assert fit_decoding(model, [known], device="cpu") is model


def test_debris_has_a_map_of_its_own(tmp_path: Path) -> None:
    def with_debris(k: int) -> Example:
        points = dots(k).positions
        classes = np.where(np.arange(len(points)) % 3 == 0, DEBRIS, LIVE)
        return replace(dots(k), labels=Points(points.positions, classes, shape=points.shape))

    examples = [with_debris(k) for k in range(4)]
    model = quietly(examples, config(tmp_path, debris=True, validation=0.25))
    assert isinstance(model.representation, Heatmap)
    assert (model.representation.sigma, model.representation.debris) == (3, True)
    assert predict_maps(examples[0].image, model, device="cpu").shape == (2, 80, 96)
    assert model.card["Figures on the validation images"][0]["Cells"] in [e.n_cells for e in examples]


def test_a_model_of_outlines_can_be_the_base(tmp_path: Path, tiny_model: Segmenter) -> None:
    base = tmp_path / "base"
    tiny_model.save(base)
    begun = start(config(tmp_path / "run", base=str(base)))
    assert begun.representation == Heatmap(sigma=3)
    assert begun.diameter == 0
    old, new = tiny_model.net.state_dict(), begun.net.state_dict()
    same = [name for name, weights in new.items() if torch.equal(weights, old[name])]
    assert 0.9 * len(new) < len(same) < len(new)

    begun.with_(count_calibration=CountCalibration((1.0,))).save(tmp_path / "points")
    again = start(config(tmp_path / "run", base=str(tmp_path / "points"), sigma=None))
    assert again.representation == begun.representation
    assert again.count_calibration is None  # that of the base says nothing of the new model
    wider = start(config(tmp_path / "run", base=str(tmp_path / "points"), sigma=4.0))
    assert wider.representation == Heatmap(sigma=4)
    assert all(torch.equal(a, b) for a, b in zip(wider.net.state_dict().values(), new.values(), strict=True))


def test_colour_can_be_learned_from(tmp_path: Path, tiny_model: Segmenter) -> None:
    plain = dots(0)
    pixels = np.concatenate([plain.image.read(), plain.image.read() // 2, plain.image.read() // 3])
    example = replace(plain, image=Image(pixels, color=True))
    model = quietly([example], config(tmp_path / "run", channels="color"))
    assert model.net.in_channels == 3
    assert str(load_segmenter(tmp_path / "run" / "model").channels) == "color"
    tiny_model.save(tmp_path / "base")
    with pytest.raises(InputError, match=r"'color' give 3 planes, and the net of .*base looks at 2; leave"):
        quietly([example], config(tmp_path / "other", base=str(tmp_path / "base"), channels="color"))


def test_labels_can_be_learned_as_points(tmp_path: Path, cells: Any) -> None:
    picture = np.where(cells > 0, 200, 20).astype(np.uint8)
    example = Example("cells", Image(picture[None]), cells)
    model = quietly([example], config(tmp_path, target="labels", representation="Heatmap"))
    assert isinstance(model.representation, Heatmap)
    assert model.representation.sigma == 3
    assert model.card["Training data"] == f"1 images, {cells.max()} cells"


def test_points_are_no_labels(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"d000: points tell no outlines"), showing(lambda *_: None):
        train([dots(0)], TrainConfig(out=tmp_path, device="cpu"))
    with pytest.raises(InputError, match="no labelled cell"), showing(lambda *_: None):
        train([replace(dots(0), labels=Points(np.zeros((0, 2)), shape=(80, 96)))], config(tmp_path))


@pytest.mark.parametrize("representation", ["DiffusionFlows", "StarConvex"])
def test_outlines_are_guessed_from_points(tmp_path: Path, representation: str) -> None:
    examples = [replace(dots(k, (64, 64)), known=None) for k in range(2)]
    settings = config(tmp_path, sigma=None, representation=representation, batch_size=2, validation=0.0)
    model = quietly(examples, settings)
    assert type(model.representation).__name__ == representation
    assert model.card["Outlines"].startswith("guessed from points")
    assert segment(examples[0].image, model, diameter=10, device="cpu").labels.shape == (64, 64)
    guessed = outlined(examples[0])
    assert guessed.n_cells >= 0.8 * examples[0].n_cells
    assert outlined(guessed) is guessed
    known = known_region(examples[0].positions, None, (64, 64), radius=5)
    part = outlined(replace(examples[0], known=known)).known
    assert part is not None
    assert (part <= known).all()
    assert part.any()


def test_shards_of_points(folder: Path, tmp_path: Path) -> None:
    """Prepared here, trained by the bare program, made a model of here."""
    from cellweave.train import bare

    settings = config(tmp_path / "run", validation=0.25, seed=3)
    with showing(lambda *_: None):
        prepare_only(folder, settings)
        bare.main(tmp_path / "run" / "shards", tmp_path / "run", "cpu")
    model = quietly(folder, settings, resume=True)
    assert isinstance(model.representation, Heatmap)
    assert model.card["Figures on the validation images"][0]["n"] == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"representation": "StarConvex"}, "for the representation Heatmap"),
        ({"diameter": 20.0}, "points tell no sizes"),
        ({"target": "labels", "sparse": True, "sigma": None}, "sparse is for points"),
        ({"target": "labels", "representation": "DistanceFlows"}, "for the representation Heatmap"),
        ({"target": "labels", "sigma": None, "debris": True}, "for the representation Heatmap"),
        ({"target": "dots"}, "target is 'dots'; choose from labels, points"),
        ({"sigma": 0.5}, "sigma is 0.5"),
    ],
)
def test_settings_that_do_not_fit_points(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        start(config(tmp_path, **options))


def test_settings_of_points_are_kept(tmp_path: Path) -> None:
    settings = config(tmp_path, sparse=True, debris=True, recipe="adam", augmentation="square")
    assert TrainConfig.from_json(settings.to_json()) == settings
    assert settings.learned == "Heatmap"
    assert TrainConfig(out=tmp_path).learned is None
    assert isinstance(start(TrainConfig(out=tmp_path)).representation, DiffusionFlows)
