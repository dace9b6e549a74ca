"""Frozen linear layers, plain or in 4 bits, read by rows and columns."""

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import UnsupportedAdapterError, UnsupportedModelError


def dequantized(weight: Any) -> Tensor:
    """The whole weight [out, in] in its original type."""
    from bitsandbytes.functional import dequantize_4bit

    _check_layout(weight)
    return dequantize_4bit(weight.data, quant_state=weight.quant_state)


def dequantized_rows(weight: Any, index: Tensor) -> Tensor:
    """Some rows [k, in] of the weight.

    Only they are dequantised where quantisation blocks do not cross rows.
    """
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


def base_linear(module: Any, path: str) -> tuple[nn.Module, bool]:
    """The frozen linear layer in or under `module`, and whether an adapter wraps it.

    Adapters are known by their `get_base_layer`, as PEFT's layers have it.
    Raises `UnsupportedAdapterError` or `UnsupportedModelError`.
    """
    base, wrapped = module, False
    while hasattr(base, "get_base_layer"):
        _check_adapter(base, path)
        base, wrapped = base.get_base_layer(), True
    # Subclasses compute something else than x W^T + b.
    if type(base) is not nn.Linear and not is_four_bit(base):
        raise UnsupportedModelError(
            f"sparse compute: {path} is a {type(base).__name__}; only plain linear layers and "
            "4-bit ones of bitsandbytes are supported"
        )
    if any(parameter.requires_grad for parameter in base.parameters()):
        raise UnsupportedAdapterError(
            f"sparse compute: the base weights of {path} learn, and only frozen ones can be "
            "sliced; use a method that leaves them frozen, or leave sparse_compute out"
        )
    return base, wrapped


def is_four_bit(linear: nn.Module) -> bool:
    """Whether the weight is packed by bitsandbytes."""
    return type(getattr(linear, "weight", None)).__name__ == "Params4bit"


def _check_adapter(module: Any, path: str) -> None:
    if getattr(module, "merged", False):
        raise UnsupportedAdapterError(
            f"sparse compute: the adapter of {path} is merged into its base; unmerge it first"
        )
    variants = {type(variant).__name__ for variant in getattr(module, "lora_variant", {}).values()}
    unknown = variants - {"DoraLinearVariant", "VeloraLinearVariant"}
    if unknown:
        raise UnsupportedAdapterError(
            f"sparse compute: {path} has a {unknown.pop()}: not supported"
        )
    if "DoraLinearVariant" not in variants:
        return
    if any(isinstance(drop, nn.Dropout) and drop.p > 0 for drop in module.lora_dropout.values()):
        raise UnsupportedAdapterError(
            f"sparse compute: DoRA with dropout multiplies the whole weight of {path} a second "
            "time; set dropout=0"
        )


class Scratch:
    """Memory for one slice at a time, used again by the next.

    Fresh memory for a slice of 32 MB cost as much time as a tenth of its product, in page faults.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def take(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """[rows, columns] of the type of `like`, not initialised; void at the next `take`."""
        key = (like.dtype, like.device)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < rows * columns:
            self._buffers[key] = buffer = like.new_empty(rows * columns)
        return buffer[: rows * columns].view(rows, columns)


class FrozenLinear:
    """Reads a frozen linear layer by slices; all results are in the type asked for.

    A slice lasts until the next one is taken from a layer with the same `scratch`.
    """

    def __init__(self, linear: Any, scratch: Scratch | None = None) -> None:
        self.linear = linear
        self._scratch = scratch or Scratch()
        self.is_four_bit = is_four_bit(linear)
        self.out_features = int(self.linear.out_features)
        self.in_features = int(self.linear.in_features)

    @property
    def device(self) -> torch.device:
        return self.linear.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the layer computes in."""
        if self.is_four_bit:
            compute = self.linear.compute_dtype
            return self.linear.weight.quant_state.dtype if compute is None else compute
        return self.linear.weight.dtype

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The whole weight [out, in]."""
        return self._dense().to(dtype)

    def rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The weights [k, in] of the outputs `index`."""
        if self.is_four_bit:
            return dequantized_rows(self.linear.weight, index).to(dtype)
        weight = self.linear.weight.detach()
        out = self._scratch.take(index.numel(), self.in_features, weight)
        return torch.index_select(weight, 0, index, out=out).to(dtype)

    def columns(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The weights [out, k] of the inputs `index`."""
        weight = self._dense()
        out = self._scratch.take(self.out_features, index.numel(), weight)
        return torch.index_select(weight, 1, index, out=out).to(dtype)

    def bias(self, dtype: torch.dtype, index: Tensor | None = None) -> Tensor | None:
        """The bias [out], or [k] of the outputs `index`; None if the layer has none."""
        bias = self.linear.bias
        if bias is None:
            return None
        bias = bias.detach()
        return (bias if index is None else bias.index_select(0, index)).to(dtype)

    def _dense(self) -> Tensor:
        if self.is_four_bit:
            return dequantized(self.linear.weight)
        return self.linear.weight.detach()
