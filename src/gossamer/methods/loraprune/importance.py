"""How much each row or column of a weight matters, from the gradients of LoRA's factors.

With W' = W + s B A and G the gradient of the loss by W', the factors' gradients are
dB = s G A^T and dA = s B^T G. With B' = s B, so that dB' = dB / s, the gradient that a step on the
factors makes of the weight is

    G^ = dB' A + B' dA - dB' dA  =  G A^T A + B' B'^T G - G A^T B'^T G

(the paper's equation with a learning rate of 1 in the last term). It has rank 2 r at most:
G^ = [dB', B'] [A - dA; dA], so a slice of its rows costs 4 r operations per entry.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SLICE_ENTRIES = 1 << 20
"""Entries of a weight that are looked at together: the memory that scoring takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedWeight:
    """A frozen weight and its factors, with their gradients where there are any."""

    weight: Tensor
    """W [out, in]"""
    a: Tensor
    """A [r, in]"""
    b: Tensor
    """B [out, r]"""
    scale: float
    grad_a: Tensor | None = None
    grad_b: Tensor | None = None

    def slices(self) -> Iterator[slice]:
        """Go through the rows, `SLICE_ENTRIES` entries at a time."""
        rows = max(1, SLICE_ENTRIES // self.weight.shape[1])
        for low in range(0, len(self.weight), rows):
            yield slice(low, low + rows)

    def merged(self, rows: slice) -> Tensor:
        """W' of these rows, in the format of the factors."""
        change = self.scale * (self.b[rows] @ self.a)
        return self.weight[rows].to(change.dtype) + change


def gradient_factors(weight: AdaptedWeight) -> tuple[Tensor, Tensor]:
    """Return P [out, 2 r] and Q [2 r, in] with G^ = P Q."""
    if weight.grad_a is None or weight.grad_b is None:
        raise ValueError("the factors have no gradients: score after a backward pass")
    left = torch.cat([weight.grad_b / weight.scale, weight.scale * weight.b], dim=1)
    right = torch.cat([weight.a - weight.grad_a, weight.grad_a])
    return left, right


def line_sums(
    weight: AdaptedWeight, *, columns: bool, form: Callable[[Tensor], Tensor], use_gradient: bool
) -> Tensor:
    """Sum form(G^ * W') over each row [out], or each column [in] if `columns`.

    form: torch.square as in the paper or torch.abs; without `use_gradient` of W' alone. Neither
    product is ever there as a whole.
    """
    left, right = gradient_factors(weight) if use_gradient else (None, None)
    sums = []
    for rows in weight.slices():
        values = weight.merged(rows)
        if left is not None and right is not None:
            values = values * (left[rows] @ right)
        sums.append(form(values).sum(0 if columns else 1))
    return torch.stack(sums).sum(0) if columns else torch.cat(sums)
