"""The papers' experiments: choice of images, resampling, AP curves, clusters, verdicts, figures, finding runs done."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cellweave.core.image import Image
from cellweave.core.labels import median_diameter
from cellweave.train import Example, TrainConfig


@pytest.fixture
def trainings() -> ModuleType:
    import _trainings

    return _trainings


@pytest.fixture
def ablation() -> ModuleType:
    import ablation

    return ablation


def squares(side: int, cell: int, group: str = "") -> Example:
    """Square cells of `cell` px, `cell` px apart."""
    n = side // (2 * cell)
    grid = np.arange(1, n * n + 1, dtype=np.int32).reshape(n, n)
    labels = np.kron(grid, np.pad(np.ones((cell, cell), np.int32), ((0, cell), (0, cell)))).astype(np.int32)
    return Example(f"{group}{cell}", Image.from_array((1000 * (labels > 0)).astype(np.uint16)), labels, group)


def test_images_are_chosen_evenly_and_of_each_kind(trainings: ModuleType) -> None:
    assert trainings.evenly(list(range(11)), 3) == [0, 5, 10]
    assert trainings.evenly([1, 2], 5) == [1, 2]
    assert trainings.evenly([], 5) == []
    members = [squares(16, 4, group) for group in "aaaab"]
    assert [e.group for e in trainings.of_each_kind(members, 2)] == ["a", "a", "b"]


def test_the_specialist_learns_at_most_100_images_of_one_kind(trainings: ModuleType) -> None:
    one = squares(16, 4)
    groups = ["dsb2018/fluo_small"] * 120 + ["dsb2018/he_pink", "bbbc039"] + ["dsb2018/fluo_large"] * 30
    chosen = trainings.one_kind([Example(str(k), one.image, one.labels, group) for k, group in enumerate(groups)])
    assert len(chosen) == 100
    assert {e.group for e in chosen} == {"dsb2018/fluo_small", "dsb2018/fluo_large"}


def test_every_training_has_settings_that_make_sense_and_a_base_before_it(trainings: ModuleType) -> None:
    known: list[str] = []
    for name, training in trainings.TRAININGS.items():
        assert not training.base or training.base in known
        TrainConfig(Path(name), **training.settings)
        known.append(name)
    assert [name for name in known if name.startswith("cluster_")] == [f"cluster_{k}" for k in range(10)]


def test_clusters_are_found_again_by_the_nearest_centroid(trainings: ModuleType) -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 20)
    styles = (np.eye(4, 8)[truth] + rng.normal(0, 0.02, (80, 8))).astype(np.float32)
    centroids, clusters = trainings.cluster(styles, 4)
    assert len(set(zip(truth.tolist(), clusters.tolist(), strict=True))) == 4
    assert [trainings.nearest(one, centroids) for one in styles] == clusters.tolist()
    assert np.array_equal(trainings.cluster(styles, 4)[1], clusters)


def test_resampling_keeps_cells_and_type(ablation: ModuleType) -> None:
    example = squares(64, 8)
    for factor in (0.5, 1.0, 2.0):
        image, labels = ablation.resampled(example, factor)
        pixels = image.read()[0]
        assert pixels.dtype == np.uint16
        assert pixels.shape == labels.shape == (64 * factor, 64 * factor)
        assert np.array_equal(np.unique(labels), np.unique(example.labels))
        assert median_diameter(labels) == pytest.approx(factor * median_diameter(example.labels))
        assert pixels[labels > 0].mean() > 800 > 200 > pixels[labels == 0].mean()
    assert np.array_equal(ablation.resampled(example, 1.0)[0].read(), example.image.read())


def test_resolutions_leave_out_small_cells_and_large_images(ablation: ModuleType) -> None:
    pictures = ablation.multi_resolution([squares(64, 8), squares(640, 40)])
    assert [(p.source, p.factor) for p in pictures] == [
        (0, 1.0),  # 9 px in diameter
        (0, 2.0),
        (0, 4.0),
        (1, 0.25),
        (1, 0.5),
        (1, 1.0),
        (1, 2.0),  # 4 times would be 2560 px a side
    ]
    f1 = np.array([0.0, 0.5, 1.0, 1.0, 1.0, 0.0, 0.0])
    assert ablation.by_image(pictures, f1).tolist() == [0.5, 0.5]
    factors, means = ablation.by_factor(pictures, f1)
    assert factors == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert means == [1.0, 1.0, 0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("expected", "changes", "conclusion"),
    [
        (0.3, [0.1, 0.2, 0.15, 0.11], "ours +0.140 ± 0.045: holds"),
        (-0.3, [-0.1, -0.2, -0.15, -0.11], "ours -0.140 ± 0.045: holds"),
        (0.3, [-0.1, -0.2, -0.15, -0.12], "does not hold, the opposite"),
        (0.3, [0.1, -0.2, 0.15, 0.12], "does not hold, no clear change"),
        (0.3, [0.0, 0.0, 0.0], "does not hold, no clear change"),
        (0.3, [0.5], "does not hold, no clear change"),
    ],
)
def test_verdicts(ablation: ModuleType, expected: float, changes: list[float], conclusion: str) -> None:
    assert ablation.verdict(expected, np.array(changes)).endswith(conclusion)


def test_every_step_of_the_paper_is_compared_with_one_before_it(ablation: ModuleType) -> None:
    names = list(ablation.PAPER)
    assert all(names.index(before) < names.index(name) for name, before in ablation.BEFORE.items())
    changes = [ablation.PAPER[name] - ablation.PAPER["+ diameter estimation"] for name in names[3:]]
    assert all(change < 0 for change in changes)


def test_average_precision_is_the_papers() -> None:
    from cellpose_benchmark import THRESHOLDS, average_precision

    truth = np.zeros((40, 40), np.int32)
    truth[2:12, 2:12], truth[20:30, 2:12], truth[20:30, 20:30] = 1, 2, 3
    found = np.zeros_like(truth)
    found[2:12, 2:12] = 5  # IoU 1
    found[20:30, 2:9] = 6  # IoU 0.7
    found[2:12, 20:30] = 7  # nothing there
    curves = average_precision([truth, truth, np.zeros_like(truth)], [truth, found, np.zeros_like(truth)])
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
    assert (curves[[0, 2]] == 1).all()
    # 3 true and 3 found: TP 2, FP 1, FN 1 up to IoU 0.7; TP 1, FP 2, FN 2 above
    assert curves[1] == pytest.approx([2 / 4] * 5 + [1 / 5] * 6)


def test_figures_are_small_and_the_same_each_time(tmp_path: Path) -> None:
    import _plots

    lines = {"ours": ([0.5, 1.0, 2.0], [0.2, 0.9, 0.3])}
    for name in ("a.svg", "b.svg"):
        _plots.curves(tmp_path / name, {"one": lines, "two": lines}, "factor", "F1", log2=True)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    bars = {"paper": {"base": 0.3, "more": 0.6}, "ours": {"base": 0.4, "more": 0.5}}
    _plots.bars_and_curves(tmp_path / "c.svg", bars, lines, ("F1", "F1", "factor"))
    for file in tmp_path.iterdir():
        assert file.stat().st_size < 60_000
        assert ">ours</text>" in file.read_text()


def test_a_style_is_of_the_image_at_the_training_diameter(trainings: ModuleType) -> None:
    from cellweave.models import Segmenter
    from cellweave.nets import FastUNet
    from cellweave.representations import DiffusionFlows

    model = Segmenter(FastUNet(widths=(8, 8, 8, 8)), DiffusionFlows(), 12.0)
    example, coarse = squares(240, 12), squares(120, 6)
    one = trainings.style(model, example.image, 12.0)
    assert one.shape == (32,)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    same, other = (trainings.style(model, coarse.image, diameter) for diameter in (6.0, 12.0))
    assert np.linalg.norm(one - same) < np.linalg.norm(one - other)
    assert trainings.style(model, squares(2400, 12).image, 12.0).shape == (32,)  # only the middle is looked at


def test_a_training_is_made_once_and_cleans_up(
    trainings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"crop": 32, "batch_size": 2, "channels": "gray"}
    plan = {
        "base": trainings.Training(list, 8, settings=small),
        "tuned": trainings.Training(list, 8, "base", small),
    }
    monkeypatch.setattr(trainings, "TRAININGS", plan)
    monkeypatch.setattr(trainings, "RUNS", tmp_path)
    monkeypatch.setattr(trainings, "free_examples", lambda split: [squares(64, 8), squares(64, 10)])
    model = trainings.trained("tuned", "cpu")
    assert trainings.is_done(tmp_path / "base")
    assert not (tmp_path / "tuned" / "cache").exists()
    monkeypatch.setattr(trainings, "free_examples", None)
    assert trainings.trained("tuned", "cpu").hash == model.hash


def test_trainings_are_listed_and_made_by_name(
    trainings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import _runs

    (tmp_path / "generalist" / "model").mkdir(parents=True)
    assert "generalist" in trainings.TRAININGS
    made: list[tuple[str, str]] = []

    def command(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["script", *words])
        _runs.command_line("script", trainings.TRAININGS, tmp_path, lambda *order: made.append(order))

    command("--list")
    *lines, total = capsys.readouterr().out.splitlines()
    assert len(lines) == len(trainings.TRAININGS)
    assert total.startswith("all together about ")
    assert [line.split()[0] for line in lines if line.endswith("done")] == ["generalist"]
    assert made == []
    command("generalist", "specialist", "--device", "cpu")
    assert made == [("generalist", "cpu"), ("specialist", "cpu")]
    command("--all")
    assert [name for name, _ in made[2:]] == list(trainings.TRAININGS)
    for words in ([], ["nonsense"]):
        with pytest.raises(SystemExit):
            command(*words)
        assert "generalist_star" in capsys.readouterr().err
