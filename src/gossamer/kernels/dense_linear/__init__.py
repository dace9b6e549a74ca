"""The dense base product y = x W^T + b, for weights that never change.

On a processor the weights are packed once into oneDNN's blocked layout. Measured on two AVX2 cores
with SmolLM2's shapes: 1.3x at 32 rows, 1.9x at 8, equal from 128 on (benchmarks/kernels.py); and a
row's result does not depend on the number of rows, bit for bit, which plain `linear` does not give.
Where the CPU computes a row alone in another way, it is computed twice: a few per cent of a step.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gossamer.kernels.dense_linear import reference
from gossamer.kernels.dense_linear.cpu import can_pack, is_one_row_apart, pack, packed_linear

__all__ = ["DenseLinear"]


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
            if self._twice and x.numel() == self.in_features:
                # Computed beside a copy of itself, the row has the bits that it has among others.
                rows = x.reshape(1, -1).expand(2, -1).contiguous()
                return packed_linear(rows, self.weight, self.bias)[:1].view(*x.shape[:-1], -1)
            return packed_linear(x, self.weight, self.bias)
        return reference.linear(x, self.weight, self.bias)

    def plus(self, updates: Sequence[tuple[int, Tensor]]) -> "DenseLinear":
        """A copy with weights of its own: each update [n, h_in] added from its first row on."""
        weight = self.weight.to_dense() if self._packed else self.weight.clone()
        for first, update in updates:
            weight[first : first + len(update)] += update
        other = copy.copy(self)
        other.weight = pack(weight) if self._packed else weight
        other._squared_lengths = None
        return other

    def squared_lengths(self) -> Tensor:
        """|W_j|^2 of each row j, float64 [sum of widths]; computed when first asked for."""
        if self._squared_lengths is None:
            weight = self.weight.to_dense() if self._packed else self.weight
            lengths = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64)
            self._squared_lengths = lengths.square()
        return self._squared_lengths


def _joint_bias(layers: list[nn.Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat(
        [
            layer.bias.detach() if layer.bias is not None else torch.zeros(layer.out_features)
            for layer in layers
        ]
    )
