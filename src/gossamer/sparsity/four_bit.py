"""Slices of 4-bit weights of bitsandbytes, dequantised."""

from typing import Any

import torch
from torch import Tensor

from gossamer.errors import UnsupportedModelError


def dequantized(weight: Any) -> Tensor:
    """[out, in]: the whole weight in its original type."""
    from bitsandbytes.functional import dequantize_4bit

    _check_layout(weight)
    return dequantize_4bit(weight.data, quant_state=weight.quant_state)


def dequantized_rows(weight: Any, index: Tensor) -> Tensor:
    """[k, in]: some rows; only they are dequantised where quantisation blocks do not cross rows."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    _check_layout(weight)
    state = weight.quant_state
    rows, width = state.shape
    if width % state.blocksize:
        return dequantized(weight).index_select(0, index)
    packed = weight.data.reshape(rows, -1).index_select(0, index)
    scales = _scales(state).view(rows, -1).index_select(0, index)
    part = QuantState(
        absmax=scales.reshape(-1),
        shape=torch.Size((index.numel(), width)),
        code=state.code,
        blocksize=state.blocksize,
        quant_type=state.quant_type,
        dtype=state.dtype,
    )
    return dequantize_4bit(packed.reshape(-1, 1), quant_state=part)


def _scales(state: Any) -> Tensor:
    """The scale of each block in float32, itself dequantised if it was quantised too."""
    if not state.nested:
        return state.absmax
    from bitsandbytes.functional import dequantize_blockwise

    return (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()


def _check_layout(weight: Any) -> None:
    if getattr(weight.quant_state, "packing_format_for_cpu", False):
        raise UnsupportedModelError(
            "sparse compute: bitsandbytes has repacked the 4-bit weights for inference; load the "
            "model anew and call model.train() before the first forward pass"
        )
