import numpy as np
import pytest

from gossamer.kernels.transpose import transpose_into

SIZES = [(1, 1), (7, 5), (8, 8), (9, 16), (16, 9), (13, 64), (64, 13), (576, 8), (1, 24), (24, 1)]


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_every_element_goes_to_its_place_and_none_beside_it(rows, columns, dtype):
    limits = np.iinfo(dtype)
    source = np.random.default_rng(0).integers(limits.min, limits.max, (rows, columns), dtype)
    memory = np.full(rows * columns + 32, 77, dtype=dtype)
    transpose_into(source, memory[16:-16])
    assert (memory[16:-16].reshape(columns, rows) == source.T).all()
    assert (memory[:16] == 77).all()
    assert (memory[-16:] == 77).all()
