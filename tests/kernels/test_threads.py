"""How many threads the processor kernels use."""

import threading

import numba
import pytest

from gossamer.kernels.cpu import use_threads


@pytest.fixture(autouse=True)
def restored():
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


def test_the_number_holds_for_the_calling_thread():
    use_threads(1)
    assert numba.get_num_threads() == 1
    found = []
    other = threading.Thread(target=lambda: found.append(numba.get_num_threads()))
    other.start()
    other.join()
    assert found == [numba.config.NUMBA_NUM_THREADS]


def test_more_than_there_are_means_all():
    use_threads(10_000)
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
