"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

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


def random_cells(seed: int = 0, shape: tuple[int, int] = (128, 128), n: int = 20, radius: float = 8.0) -> NDArray[np.int32]:
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
