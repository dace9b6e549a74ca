"""The edit of hidden states (arXiv 2404.03592, equations 2 and 3)."""

import torch
from torch import Tensor


def edit(hidden: Tensor, rotate: Tensor, weight: Tensor, bias: Tensor, *, subtract: bool) -> Tensor:
    """What is added to `hidden` [n, d]: Rᵀ(W h + b - R h) with `subtract`, else Rᵀ(W h + b).

    `rotate` R and `weight` W are [r, d], `bias` b is [r].
    """
    into = weight - rotate if subtract else weight
    return torch.addmm(bias, hidden, into.T) @ rotate


def edit_at(hidden: Tensor, where: Tensor, change: Tensor) -> Tensor:
    """A copy of `hidden` [batch, q, d] with `change` [n, d] in its place at `where` [n]; tokens
    elsewhere keep every bit."""
    width = hidden.shape[-1]
    return hidden.reshape(-1, width).index_copy(0, where, change).view(hidden.shape)
