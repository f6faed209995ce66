"""Random views: pixels and maps stay together, flows turn with the picture, one seed gives one batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cellweave.core.image import Image
from cellweave.core.labels import median_diameter, relabel
from cellweave.prep import Channels, Normalisation
from cellweave.representations import DiffusionFlows
from cellweave.train.augment import batch, random_contrast, random_stain, random_view, sampling_weights
from cellweave.train.samples import Example, Preparation, Sample, prepare

FLOWS = DiffusionFlows()


def make_sample(folder: Path, array: NDArray[Any], *, channels: int = 1, stained: bool = False) -> Sample:
    """A prepared example of which the first `channels` planes are pixels and the rest maps."""
    file = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(file, array.astype(np.float16))
    weights = np.zeros((2, channels), np.float32)
    weights[0, 0] = 1
    return Sample("x", "", file, weights, stained)


@pytest.fixture
def cells_sample(tmp_path: Path, domes: Callable[..., Any]) -> tuple[Sample, NDArray[np.int32]]:
    """Pixels are the foreground, maps the flows and then the ids, which say what moved where."""
    _, labels = domes(0, (200, 220), 22, 30)
    maps = FLOWS.encode(labels)
    return make_sample(tmp_path, np.concatenate([labels[None] > 0, maps, labels[None]])), labels


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(6))
def test_maps_of_a_view_are_those_of_its_labels(cells_sample: tuple[Sample, NDArray[np.int32]], seed: int) -> None:
    """Encoding the turned labels gives the turned maps: the flows point to the middle of the same cells."""
    sample, _ = cells_sample
    pixels, maps, matrix = random_view(sample, 160, rng(seed))
    assert pixels.shape == (1, 160, 160)
    assert maps.shape == (4, 160, 160)
    labels = maps[3].numpy().astype(np.int32)
    assert len(np.unique(labels)) > 4
    turned = FLOWS.transform(maps[None, :3], matrix[None])[0].numpy()
    assert np.array_equal(turned[2] > 0.5, labels > 0)
    expected = FLOWS.encode(relabel(labels)[0])
    whole = ~np.isin(labels, np.unique(np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])))
    cosine = (turned[:2] * expected[:2]).sum(axis=0)[whole]
    assert len(cosine) > 1000
    assert np.median(cosine) > np.cos(np.radians(8))
    assert np.mean(cosine > np.cos(np.radians(30))) > 0.93


@pytest.mark.parametrize("seed", range(6))
def test_pixels_and_maps_of_a_view_are_aligned(cells_sample: tuple[Sample, NDArray[np.int32]], seed: int) -> None:
    pixels, maps, _ = random_view(cells_sample[0], 160, rng(seed))
    inside, probability = pixels[0].numpy(), maps[2].numpy()
    assert 0.1 < probability.mean() < 0.9
    surely = (inside < 0.01) | (inside > 0.99)
    assert surely.mean() > 0.8
    assert np.array_equal(inside[surely] > 0.5, probability[surely] > 0.5)
    assert np.abs((inside > 0.5) != (probability > 0.5)).mean() < 0.01


@pytest.mark.parametrize("seed", range(8))
def test_the_matrix_says_where_pixels_went(tmp_path: Path, seed: int) -> None:
    """Ramps in y and x: their gradients in the view are the rows of the inverse matrix."""
    y, x = np.mgrid[:400, :400] / 8.0
    sample = make_sample(tmp_path, np.stack([y, x, y]), channels=2)
    pixels, _, matrix = random_view(sample, 64, rng(seed))
    middle = pixels[:, 24:40, 24:40].numpy() * 8
    gradients = np.array([[np.diff(plane, axis=axis).mean() for axis in (0, 1)] for plane in middle])
    np.testing.assert_allclose(gradients, np.linalg.inv(matrix.numpy()), atol=0.05)


def test_views_differ_in_angle_flip_and_zoom(tmp_path: Path) -> None:
    sample = make_sample(tmp_path, np.zeros((4, 300, 300)))
    matrices = np.array([random_view(sample, 32, rng(seed))[2].numpy() for seed in range(200)])
    zooms = np.sqrt(np.abs(np.linalg.det(matrices)))
    assert zooms.min() >= 2**-0.75 - 1e-6
    assert zooms.max() <= 2**0.75 + 1e-6
    assert np.log2(zooms).std() > 0.3
    flipped = np.linalg.det(matrices) < 0
    assert 0.3 < flipped.mean() < 0.7
    angles = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    assert np.histogram(angles, 4, (-np.pi, np.pi))[0].min() > 20
    stretches = [np.divide(*np.linalg.svd(m)[1]) for m in matrices]
    assert max(stretches) <= np.exp(0.2) + 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (20, 20), (64, 64), (700, 40)])
def test_views_of_images_smaller_than_the_crop(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Outside of the image is zero and background."""
    sample = make_sample(tmp_path, np.ones((4, *shape)))
    for seed in range(5):
        pixels, maps, _ = random_view(sample, 96, rng(seed))
        assert pixels.shape == (1, 96, 96)
        assert set(np.unique(maps)) <= {0, 1}
        assert torch.isfinite(pixels).all()
    if min(shape) >= 20:
        assert maps.any()


def test_large_images_fill_their_views(tmp_path: Path) -> None:
    """The crop's middle keeps half a crop from the border; only turned corners may stick out."""
    sample = make_sample(tmp_path, np.ones((4, 600, 500)))
    shares = [float(random_view(sample, 64, rng(seed))[1][0].mean()) for seed in range(60)]
    assert min(shares) > 0.75
    assert np.mean(np.array(shares) == 1) > 0.5


def test_views_reach_every_part_of_an_image(tmp_path: Path) -> None:
    y, x = np.mgrid[:256, :256]
    sample = make_sample(tmp_path, np.stack([y, y, x, np.ones_like(x)]))
    seen = np.zeros((256, 256), bool)
    for seed in range(150):
        _, maps, _ = random_view(sample, 64, rng(seed))
        inside = maps[2] > 0
        seen[maps[0][inside].long(), maps[1][inside].long()] = True
    for k in range(4):
        for m in range(4):
            assert seen[64 * k : 64 * k + 64, 64 * m : 64 * m + 64].mean() > 0.2


@pytest.fixture
def samples(tmp_path: Path, domes: Callable[..., Any]) -> list[Sample]:
    """A gray image, a two-channel image, and a stained photograph."""
    examples = []
    for k, channels in enumerate((1, 2, 3)):
        picture, labels = domes(k, (100, 110), 6)
        pixels = np.stack([picture * (c + 1) for c in range(channels)]) // 16
        image = Image(pixels.astype(np.uint8), color=channels == 3)
        examples.append(Example(str(k), image, labels))
    return prepare(examples, Preparation(24.0, Channels(), Normalisation(), FLOWS), tmp_path / "cache")


@pytest.mark.parametrize("contrast", [True, False])
def test_the_same_seed_gives_the_same_batch(samples: list[Sample], contrast: bool) -> None:
    first, second = (batch(samples, 64, (3, 1, 4), FLOWS, contrast=contrast) for _ in range(2))
    assert first[0].shape == (3, 2, 64, 64)
    assert first[1].shape == (3, 3, 64, 64)
    assert first[0].dtype == first[1].dtype == torch.float32
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    other = batch(samples, 64, (3, 1, 5), FLOWS, contrast=contrast)
    assert not torch.equal(first[0], other[0])


def test_contrast_changes_no_geometry(samples: list[Sample]) -> None:
    with_, without = (batch(samples, 64, (0,), FLOWS, contrast=c) for c in (True, False))
    assert torch.equal(with_[1], without[1])
    assert not torch.equal(with_[0], without[0])


def test_flows_in_a_batch_have_unit_length_inside_cells(samples: list[Sample]) -> None:
    _, maps = batch(samples, 64, (1,), FLOWS)
    length = maps[:, :2].norm(dim=1)
    inside = maps[:, 2] > 0.5
    assert inside.float().mean() > 0.05
    assert ((length[inside] - 1).abs() < 0.02).float().mean() > 0.95
    assert (length[~inside] == 0).all()


def test_the_second_plane_of_a_gray_image_stays_empty(samples: list[Sample]) -> None:
    for seed in range(30):
        planes, _ = batch(samples[:2], 64, (seed,), FLOWS)
        assert not planes[0, 1].any()
        assert planes[0, 0].any()
        assert torch.isfinite(planes).all()
    seconds = [bool(batch(samples[1:2], 64, (seed,), FLOWS)[0][0, 1].any()) for seed in range(60)]
    assert 0.7 < np.mean(seconds) < 1  # now and then a net must do without the nucleus


def test_contrast_keeps_the_picture_recognisable() -> None:
    picture = torch.rand((2, 40, 40), generator=torch.Generator().manual_seed(0))
    before = picture.clone()
    correlations = []
    for seed in range(200):
        changed = random_contrast(picture, rng(seed))
        assert changed.shape == picture.shape
        assert torch.isfinite(changed).all()
        correlations.append(float(np.corrcoef(changed[0].flatten(), picture[0].flatten())[0, 1]))
    assert torch.equal(picture, before)
    inverted = np.mean(np.array(correlations) < 0)
    assert 0.005 < inverted < 0.12
    assert np.median(correlations) > 0.9
    assert np.min(np.abs(correlations)) > 0.2


def test_values_outside_the_common_range_survive_gamma() -> None:
    picture = torch.linspace(-1, 3, 2 * 50).reshape(2, 5, 10)
    for seed in range(50):
        assert torch.isfinite(random_contrast(picture, rng(seed))).all()


def test_stains_are_mixed_at_random_half_of_the_time() -> None:
    """Of an image with constant colours, each plane is a weighted mean of the gamma-changed colours."""
    colours = torch.tensor([0.2, 0.5, 0.8])[:, None, None].expand(3, 4, 4)
    weights = np.array([[0, 1, 0], [0, 0, 1]], np.float32)
    planes = [random_stain(colours, weights, rng(seed)) for seed in range(200)]
    for plane in planes:
        assert plane.shape == (2, 4, 4)
        assert 0.0 <= plane.min() <= plane.max() <= 1.0
    ordered = np.mean([bool((p[0] < p[1]).all()) for p in planes])
    assert 0.55 < ordered < 0.95


@pytest.mark.parametrize("groups", [["a"], ["a", "a", "b"], ["a"] * 100 + ["b"] * 4 + ["c"]])
def test_a_group_of_n_samples_gets_a_share_of_the_root_of_n(groups: list[str]) -> None:
    weights = sampling_weights(groups)
    assert weights.sum() == pytest.approx(1)
    total = sum(groups.count(g) ** 0.5 for g in set(groups))
    for group in set(groups):
        share = weights[[g == group for g in groups]]
        assert np.ptp(share) == 0
        assert share.sum() == pytest.approx(groups.count(group) ** 0.5 / total)


def test_median_diameter_of_a_prepared_sample_is_the_training_diameter(
    tmp_path: Path, domes: Callable[..., Any]
) -> None:
    picture, labels = domes(0, (300, 300), 10, 60)
    [sample] = prepare(
        [Example("x", Image(picture[None]), labels)],
        Preparation(20.0, Channels(), Normalisation(), FLOWS),
        tmp_path,
    )
    array = sample.open()
    np.testing.assert_allclose(array.shape[1:], 100, atol=2)
    assert median_diameter(FLOWS.decode(array[1:].astype(np.float32))) == pytest.approx(20, rel=0.05)
