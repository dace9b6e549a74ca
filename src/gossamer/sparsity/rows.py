"""Rows and columns of activations, gathered and put back, without autograd."""

import torch
from torch import Tensor

from gossamer.sparsity.tokens import TokenSplit


class RowGather:
    """Gathers the sparse and the dense rows of an activation; the last one is remembered.

    Query, key and value read the same input, and so do gate and up.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, TokenSplit, Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, split: TokenSplit) -> tuple[Tensor, Tensor]:
        """`x` [batch, length, n] as its sparse rows and its dense rows [.., n]."""
        if self._last is None or self._last[0] is not x or self._last[1] is not split:
            self._last = (x, split, *take_rows(x.detach(), split))
        return self._last[2], self._last[3]

    def forget(self) -> None:
        self._last = None


def take_rows(x: Tensor, split: TokenSplit) -> tuple[Tensor, Tensor]:
    """The sparse rows and the dense rows of `x` [batch, length, n]."""
    flat = x.reshape(-1, x.shape[-1])
    if split.all_sparse:
        return flat, flat[:0]
    return flat.index_select(0, split.sparse), flat.index_select(0, split.dense)


def join_rows(sparse: Tensor, dense: Tensor | None, split: TokenSplit) -> Tensor:
    """The inverse: [batch, length, n]. `dense` may be None if there are no dense rows."""
    shape = (split.batch, split.length, sparse.shape[-1])
    if dense is None or split.all_sparse:
        # No view in autograd's eyes, so that adapters may add to it in place.
        return torch.ops.aten._unsafe_view(sparse, shape)
    out = sparse.new_empty(shape)
    rows = out.view(-1, shape[-1])
    rows.index_copy_(0, split.sparse, sparse)
    rows.index_copy_(0, split.dense, dense)
    return out


def spread_columns(values: Tensor, index: Tensor, width: int) -> Tensor:
    """[n, width]: zeros, but the columns `index` [k] of `values` [n, k]."""
    out = values.new_zeros(values.shape[0], width)
    return out.scatter_(1, index.expand(values.shape[0], -1), values)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x` [n, in] times `weight` [out, in] transposed, plus `bias`."""
    return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
