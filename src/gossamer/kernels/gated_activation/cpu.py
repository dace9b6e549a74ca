"""The gate on processors, in Numba."""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from gossamer.kernels.cpu import FAST, fast_exp


@njit(cache=True, parallel=True, nogil=True, fastmath=FAST)
def _silu_and_multiply(gate_up, out):
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


def silu_and_multiply(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for gate_up [.., 2 F] = [gate, up], float32; a new tensor [.., F]."""
    rows = gate_up.reshape(-1, gate_up.shape[-1])
    out = torch.empty(rows.shape[0], rows.shape[1] // 2)
    _silu_and_multiply(rows.numpy(), out.numpy())
    return out.view(*gate_up.shape[:-1], -1)
