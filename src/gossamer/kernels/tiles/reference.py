"""The tiles in plain NumPy: state what each computes, in float64; the oracle of the tests."""

from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def widened(rows: npt.NDArray[Any]) -> Doubles:
    """Rows as they are stored (float32, int8, or bfloat16 as uint16) to float64."""
    if rows.dtype == np.uint16:
        return (rows.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return rows.astype(np.float64)


def shrink(x: npt.NDArray[Any], rows: npt.NDArray[Any]) -> Doubles:
    """Dot products [T, R] of tokens [T, width] with rows [R, width]."""
    return x.astype(np.float64) @ widened(rows).T


def expand(y: npt.NDArray[Any], weights: npt.NDArray[Any], rows: npt.NDArray[Any]) -> Doubles:
    """y [T, width] with rows [R, width] added, each as often as weights [T, R] say."""
    return y.astype(np.float64) + weights.astype(np.float64) @ widened(rows)


def gather(x: npt.NDArray[Any], places: npt.NDArray[Any], values: npt.NDArray[Any]) -> Doubles:
    """Sums [T] of x [inputs, T] at `places` [n], each times its value [n]."""
    return values.astype(np.float64) @ x.astype(np.float64)[places]
