"""The dense base product y = x W^T + b, for weights that never change.

On a processor the weights are packed once into oneDNN's blocked layout. Measured on two AVX2 cores
with SmolLM2's shapes: 1.3x at 32 rows, 1.9x at 8, equal from 128 on (benchmarks/kernels.py); and a
row's result does not depend on the number of rows, bit for bit, which plain `linear` does not give.
Where the CPU computes a row alone in another way, it is computed twice: a few per cent of a step.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gossamer.kernels.dense_linear import reference
from gossamer.kernels.dense_linear.cpu import (
    can_pack,
    is_one_row_apart,
    keep_programs_for,
    pack,
    packed_linear,
)
from gossamer.kernels.dense_linear.quantized import is_quantized, whole_weight

__all__ = ["DenseLinear", "QuantizedLinear", "keep_programs_for", "make_dense_linear"]

_EXACT = torch.float64


def make_dense_linear(layers: list[nn.Linear], backend: str) -> "DenseLinear":
    """The product of `layers` of the same input, whose weights may rest quantised."""
    if any(is_quantized(layer) for layer in layers):
        return QuantizedLinear(layers, backend)
    return DenseLinear(layers, backend)


class DenseLinear(nn.Module):
    """One or several linear layers of the same input, side by side: x [.., h_in] -> [.., h_out]."""

    def __init__(self, layers: list[nn.Linear], backend: str) -> None:
        super().__init__()
        self.widths = [layer.out_features for layer in layers]
        self.in_features = layers[0].in_features
        weight = torch.cat([layer.weight.detach() for layer in layers])
        bias = _joint_bias(layers)
        self._packed = backend == "cpu" and can_pack(weight)
        self.weight = pack(weight) if self._packed else weight
        self._twice = self._packed and is_one_row_apart(self.weight, self.in_features)
        self.bias = bias
        self._squared_lengths: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [.., h_in] to a new tensor [.., sum of widths]."""
        if self._packed:
            return self._packed_product(x, self.weight)
        return reference.linear(x, self.weight, self.bias)

    def _packed_product(self, x: Tensor, packed: Tensor) -> Tensor:
        if self._twice and x.numel() == self.in_features:
            # Computed beside a copy of itself, the row has the bits that it has among others.
            rows = x.reshape(1, -1).expand(2, -1).contiguous()
            return packed_linear(rows, packed, self.bias)[:1].view(*x.shape[:-1], -1)
        return packed_linear(x, packed, self.bias)

    def plus(self, updates: Sequence[tuple[int, Tensor]]) -> "DenseLinear":
        """A copy with weights of its own: each update [n, h_in] added from its first row on."""
        weight = self.weight.to_dense() if self._packed else self.weight.clone()
        for first, update in updates:
            weight[first : first + len(update)] += update.to(weight.device)
        other = copy.copy(self)
        other.weight = pack(weight) if self._packed else weight
        other._squared_lengths = None
        return other

    def squared_lengths(self) -> Tensor:
        """|W_j|^2 of each row j, float64 [sum of widths]; computed when first asked for."""
        if self._squared_lengths is None:
            weight = self.weight.to_dense() if self._packed else self.weight
            lengths = torch.linalg.vector_norm(weight, dim=1, dtype=_EXACT)
            self._squared_lengths = lengths.square()
        return self._squared_lengths


class QuantizedLinear(DenseLinear):
    """Linear layers of the same input whose weights rest quantised; no adapter is merged into them.

    On a processor they are made whole for each product, which then is the one of whole weights: a
    row has the same bits among any others, and the bits that a model saved whole would give. (The
    libraries' own products on CPUs depend on the number of rows.) Elsewhere each layer multiplies
    by its library's kernel, into its part of the result.
    """

    def __init__(self, layers: list[nn.Linear], backend: str) -> None:
        nn.Module.__init__(self)
        self.layers = nn.ModuleList(layers)
        self.widths = [layer.out_features for layer in layers]
        self.in_features = layers[0].in_features
        self.bias = _joint_bias(layers)
        self._is_whole_product = layers[0].weight.device.type == "cpu" and backend != "triton"
        whole = self._whole(torch.float32) if backend == "cpu" else None
        self._packed = whole is not None and can_pack(whole)
        self._twice = (
            whole is not None and self._packed and is_one_row_apart(pack(whole), self.in_features)
        )
        self._squared_lengths = None

    def forward(self, x: Tensor) -> Tensor:
        """x [.., h_in] to a new tensor [.., sum of widths]."""
        if self._packed:
            return self._packed_product(x, pack(self._whole(torch.float32)))
        if self._is_whole_product:
            return reference.linear(x, self._whole(x.dtype), self.bias)
        y = x.new_empty(*x.shape[:-1], sum(self.widths))
        parts = torch.split(y, self.widths, dim=-1)
        for part, layer in zip(parts, self.layers, strict=True):
            part.copy_(layer(x))
        return y

    def plus(self, updates: Sequence[tuple[int, Tensor]]) -> DenseLinear:
        """Not for quantised weights: rounding the sum again would lose what an adapter adds."""
        raise TypeError("quantised weights have no copy with updates")

    def squared_lengths(self) -> Tensor:
        """|W_j|^2 of each row j, float64 [sum of widths]; computed when first asked for."""
        if self._squared_lengths is None:
            lengths = [
                torch.linalg.vector_norm(whole_weight(layer, torch.float32), dim=1, dtype=_EXACT)
                for layer in self._linears()
            ]
            self._squared_lengths = torch.cat(lengths).square()
        return self._squared_lengths

    def _whole(self, dtype: torch.dtype) -> Tensor:
        """All weights, [sum of widths, h_in]."""
        weights = [whole_weight(layer, dtype) for layer in self._linears()]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    def _linears(self) -> Iterator[nn.Linear]:
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            yield layer


def _joint_bias(layers: list[nn.Linear]) -> Tensor | None:
    some = next((layer.bias for layer in layers if layer.bias is not None), None)
    if some is None:
        return None
    return torch.cat(
        [
            layer.bias.detach() if layer.bias is not None else some.new_zeros(layer.out_features)
            for layer in layers
        ]
    )
