"""Moving matrices in plain NumPy: states the operation; the oracle of the tests."""

from typing import Any

import numpy as np
import numpy.typing as npt


def move_matrices(
    source: npt.NDArray[Any], moves: npt.NDArray[np.int64], target: npt.NDArray[Any]
) -> None:
    """Copy each matrix of `moves` from source to target, transposed; see `kernels.transpose`."""
    for start, place, rows, columns in moves:
        matrix = source[start : start + rows * columns].reshape(rows, columns)
        target[place : place + rows * columns] = matrix.T.reshape(-1)
