"""Linear layers whose weights rest in 4 or 8 bits: which those are, and their weights made whole.

What is served of bitsandbytes and torchao is weight only: the product is x times the whole weights,
and x itself is never rounded.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def is_quantized(layer: nn.Linear) -> bool:
    """Whether the weights of `layer` are more than a tensor of numbers."""
    return type(layer) is not nn.Linear or type(layer.weight) not in (nn.Parameter, Tensor)


def whole_weight(layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """The weights of `layer` as numbers [h_out, h_in] of type `dtype`; new unless it has them."""
    weight: Any = layer.weight
    if not is_quantized(layer):
        return weight.detach().to(dtype)
    if type(weight).__name__ == "Params4bit":
        return _from_4_bits(weight, dtype)
    if type(weight).__name__ == "Int8Params":
        return _from_8_bits(layer, dtype)
    with torch.no_grad():
        whole: Tensor = weight.dequantize()
    return whole.detach().to(dtype)


def _from_4_bits(weight: Any, dtype: torch.dtype) -> Tensor:
    """A level times its block's scale, as bitsandbytes' own product rounds it: straight to `dtype`.

    The type that the weights had before is what dequantising gives otherwise.
    """
    from bitsandbytes.functional import dequantize_4bit

    state = copy.copy(weight.quant_state)
    state.dtype = dtype
    whole: Tensor = dequantize_4bit(weight.data, quant_state=state)
    return whole


def _from_8_bits(layer: Any, dtype: torch.dtype) -> Tensor:
    """A whole number times the scale of its row, which is the row's largest value over 127."""
    # They lie at the weight until the layer first computes, then at its state.
    largest = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
    whole: Tensor = layer.weight.data.to(dtype)
    return whole.mul_(largest[:, None].mul(1.0 / 127.0))
