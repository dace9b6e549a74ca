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
    def product(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Multiply x, float32 [n, h_in], by W^T, without the bias; float32 [n, h_out].

        Both are in host memory. `dtype`: the number format in which the layer computes; where it is
        a shorter one, what it rounds off x goes through the layer after it.
        """
        device = self.dense.squared_lengths().device
        first = x.to(device, dtype)
        y = self._product(first)
        if dtype != torch.float32:
            y += self._product((x.to(device) - first.float()).to(dtype))
        return y.cpu()

    def _product(self, x: Tensor) -> Tensor:
        y: Tensor = self.dense(x)[:, self.low : self.high].float()
        if self.dense.bias is not None:
            y = y - self.dense.bias[self.low : self.high].float()
        return y

    def squared_lengths(self) -> Tensor:
        """Return |W_j|^2 of each row j, float64 [h_out] in host memory."""
        return self.dense.squared_lengths()[self.low : self.high].cpu()
