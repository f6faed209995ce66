"""Flow fusion is the mean over the models that are present, and is decoded once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.fusion import flow_fusion
from cellweave.metrics import match
from cellweave.representations import DiffusionFlows
from drawing import crowd, like_a_network

Maps = NDArray[np.float32]


@st.composite
def map_stacks(draw: st.DrawFn) -> Maps:
    shape = (draw(st.integers(1, 5)), 3, draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    return draw(arrays(np.float32, shape, elements=st.floats(-2, 2, width=32)))


@given(map_stacks(), st.data())
def test_equals_the_weighted_mean(maps: Maps, data: st.DataObject) -> None:
    weights = np.array(data.draw(st.lists(st.sampled_from([0, 0.5, 1, 3]), min_size=len(maps), max_size=len(maps))))
    if weights.any():
        fused = flow_fusion(maps, weights=weights)
        assert fused.dtype == np.float32
        np.testing.assert_allclose(fused, np.average(maps.astype(float), axis=0, weights=weights), atol=1e-6)
        order = data.draw(st.permutations(range(len(maps))))
        np.testing.assert_allclose(flow_fusion(maps[order], weights=weights[order]), fused, atol=1e-6)


@given(map_stacks(), st.integers(1, 7), st.floats(0.1, 10))
def test_copies_of_one_model_give_its_maps(maps: Maps, copies: int, weight: float) -> None:
    assert (flow_fusion([maps[0]] * copies, weights=[weight] * copies) == maps[0]).all()


@given(map_stacks())
def test_missing_is_weight_zero_and_the_input_stays(maps: Maps) -> None:
    before = maps.copy()
    alone = flow_fusion([None, *maps, None])
    assert (alone == flow_fusion(maps)).all()
    assert (alone == flow_fusion([np.full(maps[0].shape, np.nan), *maps], weights=[0] + [1] * len(maps))).all()
    assert (maps == before).all()
    alone[:] = 9
    assert (maps == before).all()


def test_decoding_the_mean_of_noisy_models_beats_each_of_them() -> None:
    representation = DiffusionFlows()
    f1: list[float] = []
    truth = crowd(3, (128, 160))
    rng = np.random.default_rng(0)
    maps = []
    for _ in range(5):
        noisy = like_a_network(truth, 3) + rng.normal(0, 0.6, (3, *truth.shape)).astype(np.float32)
        noisy[2] = np.clip(noisy[2], 0, 1)
        maps.append(noisy)
        f1.append(match(truth, representation.decode(noisy)).f1)
    assert match(truth, representation.decode(flow_fusion(maps))).f1 > max(f1)


def test_volumes_and_other_types() -> None:
    maps = np.arange(2 * 4 * 2 * 3 * 3).reshape(2, 4, 2, 3, 3)
    assert (flow_fusion(maps) == maps.mean(axis=0)).all()
    assert (flow_fusion([maps[0].astype(np.float64), maps[1].astype(np.float16)]) == maps.mean(axis=0)).all()


def test_input_errors_say_the_fact() -> None:
    maps = np.zeros((3, 4, 5), np.float32)
    bad = maps.copy()
    bad[1, 2, 3] = np.nan
    with pytest.raises(InputError, match=r"maps of models \[1\] hold NaN"):
        flow_fusion([maps, bad])
    with pytest.raises(InputError, match=r"model 0 have shape \(3, 4, 5\) and those of model 2 \(2, 4, 5\)"):
        flow_fusion([maps, None, maps[:2]])
    with pytest.raises(InputError, match=r"shape \(4, 5\); maps are"):
        flow_fusion([maps[0]])
    with pytest.raises(InputError, match="all of 2 raters are missing"):
        flow_fusion([None, None])
    with pytest.raises(InputError, match="not negative"):
        flow_fusion([maps, maps], weights=[1, -2])
