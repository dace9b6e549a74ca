"""A linear layer of the base model, as those see it who compute with its weights at load time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.kernels.dense_linear import DenseLinear


@dataclass(frozen=True, slots=True)
class BaseLinear:
    """One module of a group that is computed as one product."""

    dense: DenseLinear
    low: int
    """First column of the module in the group's output."""
    high: int
    is_alone: bool
    """No other module reads the same input in the same product."""

    @torch.inference_mode()
    def product(self, x: Tensor) -> Tensor:
        """Multiply x [n, h_in] by W^T, without the bias; [n, h_out]."""
        y: Tensor = self.dense(x)
        if self.dense.bias is not None:
            y = y - self.dense.bias
        return y[:, self.low : self.high]

    def squared_lengths(self) -> Tensor:
        """Return |W_j|^2 of each row j, float64 [h_out]."""
        return self.dense.squared_lengths()[self.low : self.high]
