import numpy as np
import pytest

from gossamer.kernels.transpose import move_matrices, reference

SIZES = [(1, 1), (7, 5), (8, 8), (9, 16), (16, 9), (13, 64), (64, 13), (576, 8), (1, 24), (24, 1)]


def random_words(size, dtype):
    limits = np.iinfo(dtype)
    return np.random.default_rng(0).integers(limits.min, limits.max, size, dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_every_element_goes_to_its_place_and_none_beside_it(rows, columns, dtype):
    source = random_words(rows * columns, dtype)
    target = np.full(rows * columns + 32, 77, dtype=dtype)
    move_matrices(source, np.array([[0, 16, rows, columns]]), target)
    moved = target[16:-16].reshape(columns, rows)
    assert (moved == source.reshape(rows, columns).T).all()
    stated = np.full_like(target, 77)
    reference.move_matrices(source, np.array([[0, 16, rows, columns]]), stated)
    assert (target == stated).all()
    assert (target[:16] == 77).all()
    assert (target[-16:] == 77).all()


def test_many_matrices_change_their_order():
    source = random_words(12 + 6 + 5, np.int16)
    target = np.zeros_like(source)
    moves = np.array([[0, 11, 3, 4], [12, 5, 1, 6], [18, 0, 5, 1]])
    move_matrices(source, moves, target)
    expected = [source[18:], source[12:18], source[:12].reshape(3, 4).T.reshape(-1)]
    assert (target == np.concatenate(expected)).all()
    stated = np.zeros_like(source)
    reference.move_matrices(source, moves, stated)
    assert (target == stated).all()


@pytest.mark.parametrize("move", [[-1, 0, 1, 1], [0, 0, 3, 3], [5, 0, 1, 4], [0, 5, 1, 4]])
def test_nothing_outside_of_the_arrays_is_touched(move):
    words = np.zeros(8, dtype=np.int16)
    with pytest.raises(ValueError, match="outside"):
        move_matrices(words, np.array([move]), words.copy())
