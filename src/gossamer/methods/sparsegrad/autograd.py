"""A linear layer in another basis, whose gradient is cut to its largest entries.

Rows are tokens: Y = (X U^T) W~^T V^T with W~ = V^T W U^T, which is X W^T. Backward with g = dL/dY:
g~ = g V; dL/dX = g~ W~ U, which is exact; dL/dW~ = g~^T (X U^T), of which the largest entries stay.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class GradientEntries(NamedTuple):
    """Some entries of a matrix [out, in]."""

    places: Tensor
    """int64 [n], row * in + column, in rising order."""
    values: Tensor
    """float32 [n]"""


_SAMPLE = 8192

Select = Callable[[Tensor, Tensor], GradientEntries]
"""g~ [tokens, out], X U^T [tokens, in] -> the entries of their product that stay."""


def transformed_linear(
    x: Tensor, weight: Tensor, u: Tensor, v: Tensor, marker: Tensor, take: Callable[..., Tensor]
) -> Tensor:
    """x [..., in] -> [..., out] in float32; `weight` is W~.

    In the backward pass `take(g~, X U^T)` is handed the two factors of dL/dW~ and returns the
    gradient of `marker`; the weight itself is given none.
    """
    out: Tensor = _TransformedLinear.apply(  # type: ignore[no-untyped-call]
        x, weight, u, v, marker, take
    )
    return out


class _TransformedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, u: Tensor, v: Tensor, marker: Tensor, take: Any
    ) -> Tensor:
        entered = x.reshape(-1, x.shape[-1]) @ u.T
        ctx.take, ctx.shape = take, x.shape
        ctx.save_for_backward(entered, weight, u, v)
        return (entered @ weight.T @ v.T).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        entered, weight, u, v = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1]) @ v
        into_x = (g @ weight @ u).view(ctx.shape) if ctx.needs_input_grad[0] else None
        into_marker = ctx.take(g, entered) if ctx.needs_input_grad[4] else None
        return into_x, None, None, None, into_marker, None


def largest(gradient: Tensor, count: int, threshold: str) -> GradientEntries:
    """Find the `count` largest entries of `gradient` by magnitude.

    threshold "signed": all entries whose magnitude reaches the smallest of the `count` largest
    signed ones, as the released code has it.
    """
    flat = gradient.flatten()
    count = min(count, flat.numel())
    if threshold == "signed":
        bound = flat.topk(count).values[-1]
        places = (flat.abs() >= bound).nonzero().flatten()
    else:
        places = _places_of_largest(flat.abs(), count).sort().values
    return GradientEntries(places, flat[places])


def _places_of_largest(sizes: Tensor, count: int) -> Tensor:
    """Where the `count` largest of `sizes` are, in any order."""
    sample = sizes[:: max(1, len(sizes) // _SAMPLE)]
    # A bound that somewhat more than `count` entries should reach, for most of topk's time goes
    # into entries that are far from the top.
    reach = min(len(sample), int(1.3 * count / len(sizes) * len(sample)) + 8)
    near = (sizes >= sample.topk(reach).values[-1]).nonzero().flatten()
    if len(near) < count:
        return sizes.topk(count, sorted=False).indices
    return near[sizes[near].topk(count, sorted=False).indices]


def plain(count: int, threshold: str) -> Select:
    """The whole product, then its largest entries."""

    def select(g: Tensor, x: Tensor) -> GradientEntries:
        return largest(g.T @ x, count, threshold)

    return select


def strided(count: int, threshold: str, energy: float) -> Select:
    """The product of only those rows and columns that carry `energy` of each factor's squares."""

    def select(g: Tensor, x: Tensor) -> GradientEntries:
        rows, columns = _strongest(g, energy), _strongest(x, energy)
        block = g[:, rows].T @ x[:, columns]
        found = largest(block, count, threshold)
        row = rows[found.places // len(columns)]
        places = row * x.shape[1] + columns[found.places % len(columns)]
        return GradientEntries(places, found.values)

    return select


def _strongest(factor: Tensor, energy: float) -> Tensor:
    """The fewest columns of `factor` [tokens, n] that carry that share of its squares, rising."""
    squares = factor.square().sum(0)
    sizes, order = squares.sort(descending=True)
    reached = sizes.cumsum(0)
    if energy >= 1:
        count = int((sizes > 0).sum())
    else:
        count = int((reached < energy * reached[-1]).sum()) + 1
    return order[: max(count, 1)].sort().values
