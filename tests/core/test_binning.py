import hypothesis.extra.numpy as arrays
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.binning import block_means, block_sums

PLANES = arrays.arrays(
    st.sampled_from([np.uint8, np.uint16, np.float32, np.bool_]),
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=23),
    elements={"min_value": 0, "max_value": 200, "allow_nan": False},
)


@given(PLANES, st.integers(1, 30))
def test_every_block_is_what_its_slice_has(values: NDArray[np.generic], side: int) -> None:
    sums, means = block_sums(values, side), block_means(values, side)
    height, width = (-(-n // side) for n in values.shape)
    assert sums.shape == means.shape == (height, width)
    assert sums.dtype == means.dtype == np.float32
    for i in range(height):
        for j in range(width):
            block = values[i * side : (i + 1) * side, j * side : (j + 1) * side].astype(np.float64)
            assert np.isclose(sums[i, j], block.sum(), rtol=1e-5)
            assert np.isclose(means[i, j], block.mean(), rtol=1e-5)


def test_the_image_is_left_as_it_was() -> None:
    values = np.ones((4, 6), np.float32)
    block_sums(values, 1)[:] = 7
    block_sums(values, 2)
    assert (values == 1).all()
