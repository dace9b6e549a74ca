"""Says which tokens of a batch compute sparsely, gathers their rows and puts them back."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True, slots=True)
class TokenSplit:
    """The tokens of a [batch, length] batch as rows of its flattened form."""

    batch: int
    length: int
    sparse: Tensor
    """Row numbers [n] of sparse tokens, ascending."""
    dense: Tensor
    """Row numbers [batch * length - n] of the other tokens, ascending."""
    real: Tensor | None
    """A mask [batch, length] that is True outside padding; None if there is no padding."""

    @property
    def all_sparse(self) -> bool:
        return self.dense.numel() == 0

    @property
    def sparse_share(self) -> float:
        """Share of all tokens, padding included, that compute sparsely."""
        return self.sparse.numel() / (self.batch * self.length)


def split_tokens(
    labels: Tensor | None,
    mask: Tensor | None,
    *,
    shape: tuple[int, int],
    tokens: Literal["context", "all"],
    span: Literal["batch", "sample"],
) -> TokenSplit:
    """The split of a batch of `shape` [batch, length].

    With `tokens="context"`, dense are the positions from the first label to the last: of the batch
    (one span for all rows), or of each row. `labels` [batch, length] hold -100 where nothing is
    learnt; `mask` [batch, length] is 0 at padding, on whichever side it is.
    """
    if tokens == "all" or labels is None:
        dense = torch.zeros(shape, dtype=torch.bool, device=None if mask is None else mask.device)
    else:
        learnt = labels != IGNORED
        if span == "batch":
            learnt = learnt.any(0, keepdim=True)
        dense = _between_first_and_last(learnt).expand(shape)
    flat = dense.reshape(-1)
    real = None if mask is None or bool(mask.all()) else mask.bool()
    return TokenSplit(
        batch=shape[0],
        length=shape[1],
        sparse=(~flat).nonzero().squeeze(1),
        dense=flat.nonzero().squeeze(1),
        real=real,
    )


def _between_first_and_last(learnt: Tensor) -> Tensor:
    """A mask [n, length] of places from the first True of each row to the last."""
    counts = learnt.int()
    begun = counts.cumsum(1) > 0
    not_over = counts.flip(1).cumsum(1).flip(1) > 0
    return begun & not_over


class RowGather:
    """Gathers the sparse and the dense rows of an activation; the last one is remembered.

    Query, key and value read the same input, and so do gate and up.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, TokenSplit, Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, split: TokenSplit) -> tuple[Tensor, Tensor]:
        """Gather from `x` [batch, length, n] its sparse rows and its dense rows [.., n]."""
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
    """Undo `take_rows`: [batch, length, n]. `dense` may be None if there are no dense rows."""
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
    """Put `values` [n, k] into the columns `index` [k] of zeros [n, width]."""
    out = values.new_zeros(values.shape[0], width)
    return out.scatter_(1, index.expand(values.shape[0], -1), values)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x` [n, in] times `weight` [out, in] transposed, plus `bias`."""
    return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
