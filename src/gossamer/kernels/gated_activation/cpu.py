"""The gate on processors, in Numba."""

import numpy as np
from numba import njit, prange

from gossamer.kernels.cpu import FAST, fast_exp


@njit(cache=True, parallel=True, nogil=True, fastmath=FAST)
def silu_and_multiply(gate_up, out):
    """out = silu(gate) * up; gate_up [rows, 2 F], out [rows, F], both contiguous."""
    width = out.shape[1]
    for row in prange(out.shape[0]):
        gate = gate_up[row, :width]
        up = gate_up[row, width:]
        into = out[row]
        for d in range(width):
            x = gate[d]
            # exp(-|x|) never overflows; silu(-x) = silu(x) - x.
            decay = fast_exp(-abs(x))
            share = np.float32(1.0) / (np.float32(1.0) + decay)
            into[d] = up[d] * x * (share if x >= 0 else decay * share)
