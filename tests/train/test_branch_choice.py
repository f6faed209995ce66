"""Thresholds between the branches of a Cell Segmenter, fitted on held-out images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cell_segmenters import cell_segmenter
from cellweave.core.image import Image
from cellweave.metrics import match
from cellweave.models.cell_segmenter import LOWEST, MARGIN
from cellweave.predict import predict_maps
from cellweave.predict.branches import foreground
from cellweave.predict.quality import quality
from cellweave.train import Example, branch_choice
from cellweave.train.branch_choice import FEWEST, judge_branches, with_fitted_thresholds


@pytest.fixture
def examples(domes: Callable[..., Any]) -> list[Example]:
    pictures = [domes(seed, (64, 64), 3) for seed in range(3)]
    return [Example(f"{k}", Image.from_array(pixels), labels) for k, (pixels, labels) in enumerate(pictures)]


def test_both_branches_are_judged_as_segmenting_does(examples: list[Example]) -> None:
    system = cell_segmenter()
    f1, sure = judge_branches(system, examples, device="cpu")
    assert f1.shape == sure.shape == (2, 3)
    for k, example in enumerate(examples):
        for row, model in enumerate((system.branches["general"], system.branches["omnipose"])):
            maps = predict_maps(example.image, model, device="cpu")
            assert sure[row, k] == quality(foreground(model, maps))
            assert f1[row, k] == match(example.outlines, model.decode_scored(maps)[0], 0.5).f1


def test_thresholds_are_fitted_where_there_are_enough_images(
    examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the other branch is less sure than 0.7, Omnipose is right. Few images, or one branch, change nothing."""
    awf = np.linspace(0.6, 0.9, FEWEST)
    judged = np.stack([np.full(FEWEST, 0.5), np.where(awf < 0.7, 0.9, 0.1)]), np.stack([awf, awf])
    monkeypatch.setattr(branch_choice, "judge_branches", lambda *_, **__: judged)
    system, many = cell_segmenter(), [examples[0]] * FEWEST
    fitted = with_fitted_thresholds(system, many)
    assert 0.68 <= fitted.lowest <= 0.72
    assert fitted.margin == MARGIN
    assert with_fitted_thresholds(system, many[1:]).lowest == LOWEST
    alone = replace(system, branches={"general": system.branches["general"]})
    assert with_fitted_thresholds(alone, many) is alone
