"""The density loss of one layer: a smooth share of the activations that are not zero."""

from typing import Any

import torch
from torch import Tensor


class _SoftCount(torch.autograd.Function):
    """Computes the mean of a^2 / (a^2 + eps), and keeps nothing for the backward pass but `a`.

    Of `a` the MLP keeps one copy anyway, so the term costs no memory between the passes; autograd
    by itself would keep three more of twice the width under bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, tokens: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(a, tokens)
        ctx.epsilon = epsilon
        square = _wide(a).square()
        by_token = (square / (square + epsilon)).sum(-1)
        return (by_token * tokens).sum() / _count(a, tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        a, tokens = ctx.saved_tensors
        wide = _wide(a)
        slope = 2 * ctx.epsilon * wide / (wide.square() + ctx.epsilon).square()
        slope *= (grads[0] / _count(a, tokens)) * tokens.unsqueeze(-1)
        return slope.to(a.dtype), None, None


def soft_count(a: Tensor, tokens: Tensor, epsilon: float) -> Tensor:
    """The mean of a^2 / (a^2 + eps) over the channels of all tokens that count: a scalar from 0
    (all of `a` is zero) to 1 (all of it is far above sqrt(eps)).

    `a` [rows, tokens, channels] are activations, `tokens` [rows, tokens] is true where a token is
    no padding. Computed in float32 at least, for in half precision the square of a small
    activation would be zero. The gradient of an element is 2 a eps / (a^2 + eps)^2, divided by
    the number of elements that count (equation 4 of the DEFT paper).
    """
    return _SoftCount.apply(a, tokens, epsilon)  # type: ignore[no-untyped-call]


def dense_share(a: Tensor, tokens: Tensor, threshold: float) -> Tensor:
    """The share of elements of `a` above `threshold` in size, shapes as in `soft_count`; no graph.

    A scalar in float64: the share of many millions of elements is exact.
    """
    by_token = (a.detach().abs() > threshold).sum(-1)
    return (by_token * tokens).sum().double() / _count(a, tokens)


def _count(a: Tensor, tokens: Tensor) -> Tensor:
    """The number of elements that count; at least 1, so that nothing is divided by zero."""
    return (tokens.sum() * a.shape[-1]).clamp(min=1)


def _wide(a: Tensor) -> Tensor:
    return a.to(torch.promote_types(a.dtype, torch.float32))
