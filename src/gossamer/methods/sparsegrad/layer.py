"""The layer that learns in another basis, and where its gradient waits for the optimizer."""

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.methods.sparsegrad.autograd import GradientEntries, Select, transformed_linear
from gossamer.methods.sparsegrad.basis import Basis


class SparseGradLinear(nn.Module):
    """A linear layer with the weight W~ = V^T W U^T, in float32.

    `weight.grad` stays None: torch cannot clip sparse gradients. The entries are kept in `pending`,
    and the gradient of `marker`, one number, is their norm. So whatever clips or logs the norm of
    all gradients sees the true one, and the factor by which it scaled the marker is applied to the
    entries by the optimizer.
    """

    def __init__(self, linear: Any, basis: Basis, select: Select) -> None:
        super().__init__()
        self.basis = basis
        self.weight = nn.Parameter(basis.enter(linear.weight.detach()))
        self.bias = linear.bias
        self.marker = nn.Parameter(torch.zeros(1, device=self.weight.device))
        self.pending: GradientEntries | None = None
        self._most = 0
        """The most entries that one micro-batch of the step has left."""
        self.dtype = linear.weight.dtype
        self._select = select
        self.in_features: int = linear.in_features
        self.out_features: int = linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            u, v = self.basis.u, self.basis.v
            out = transformed_linear(x.float(), self.weight, u, v, self.marker, self._take)
        out = out.to(x.dtype)
        return out if self.bias is None else out + self.bias

    def _take(self, g: Tensor, x: Tensor) -> Tensor:
        found = self._select(g, x)
        before = self.marker.grad
        if self.pending is None or before is None or not before.any():
            # The first micro-batch of a step.
            self.pending, self._most = found, len(found.places)
            return found.values.norm().view(1)
        self.pending = _sum(self.pending, found)
        self._most = max(self._most, len(found.places))
        return self._largest(self.pending).values.norm().view(1) - before

    def _largest(self, total: GradientEntries) -> GradientEntries:
        """Cut the sum of several micro-batches, which differ in their largest entries, to as many
        as one of them left."""
        if len(total.places) <= self._most:
            return total
        kept = total.values.abs().topk(self._most).indices.sort().values
        return GradientEntries(total.places[kept], total.values[kept])

    def gradient(self) -> GradientEntries | None:
        """Return what the backward passes of this step left, as clipped; None if nothing."""
        if self.pending is None or self.marker.grad is None:
            return None
        places, values = self._largest(self.pending)
        norm = values.norm()
        factor = torch.where(norm > 0, self.marker.grad / norm, self.marker.grad)
        return GradientEntries(places, values * factor)

    def forget_gradient(self) -> None:
        """Begin a new step."""
        self.pending = None
        self.marker.grad = None

    def dense_weight(self) -> Tensor:
        """Return V W~ U [out, in], in the type of the layer that this one replaced."""
        return self.basis.leave(self.weight.detach()).to(self.dtype)


def _sum(one: GradientEntries, other: GradientEntries) -> GradientEntries:
    places, index = torch.unique(torch.cat([one.places, other.places]), return_inverse=True)
    values = torch.cat([one.values, other.values])
    return GradientEntries(places, values.new_zeros(len(places)).index_add_(0, index, values))
