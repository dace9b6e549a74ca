"""Says which tokens of a batch compute sparsely, gathers their rows and puts them back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.sparsity.plan import SparsityPlan

IGNORED = -100


@dataclass(frozen=True, slots=True)
class TokenSplit:
    """The tokens of a [batch, length] batch as rows of its flattened form."""

    batch: int
    length: int
    sparse: Tensor
    """Row numbers [n] of sparse tokens, ascending; padding is among them."""
    dense: Tensor
    """Row numbers [batch * length - n] of the other tokens, ascending."""
    real: Tensor | None
    """A mask [batch, length] that is True outside padding; None if there is no padding."""
    context: int
    """The number of sparse tokens that come before a token that is learnt from. What the others
    compute is of no consequence."""
    sampled: Tensor
    """Row numbers of the tokens whose true products score channels, ascending; maybe none."""

    @property
    def all_sparse(self) -> bool:
        return self.dense.numel() == 0


def split_tokens(
    plan: SparsityPlan, labels: Tensor | None, mask: Tensor | None, *, shape: tuple[int, int]
) -> TokenSplit:
    """The split by `plan` of a batch of `shape` [batch, length].

    `labels` [batch, length] hold -100 where nothing is learnt; None: nothing is. `mask`
    [batch, length] is 0 at padding, on whichever side it is; None: there is none.
    """
    given = labels if mask is None else mask
    device = None if given is None else given.device
    real = None if mask is None or bool(mask.all()) else mask.bool()
    present = torch.ones(shape, dtype=torch.bool, device=device) if real is None else real
    dense = present.cumsum(1) <= plan.dense_first
    context = present
    if plan.tokens == "context" and labels is not None:
        # The loss compares the output of each token with the label of the next.
        learnt = labels != IGNORED
        read = torch.cat([learnt[:, 1:], torch.zeros_like(learnt[:, :1])], 1)
        span = read if plan.border == "outputs" else learnt
        dense = dense | _first_to_last(span.any(0, keepdim=True) if plan.span == "batch" else span)
        context = context & _up_to_last(read)
    # The outputs of padding are never read.
    dense = dense & present
    context = context & ~dense
    flat = dense.reshape(-1)
    return TokenSplit(
        batch=shape[0],
        length=shape[1],
        sparse=(~flat).nonzero().squeeze(1),
        dense=flat.nonzero().squeeze(1),
        real=real,
        context=int(context.sum()),
        sampled=_sampled(context, plan),
    )


def _sampled(candidates: Tensor, plan: SparsityPlan) -> Tensor:
    """Row numbers of the tokens to sample among `candidates` [batch, length]."""
    if plan.criterion != "sample":
        return candidates.new_empty(0, dtype=torch.long)
    groups = candidates if plan.sample_of == "row" else candidates.reshape(1, -1)
    return evenly_spaced(groups, plan.sample_tokens).reshape(-1).nonzero().squeeze(1)


def evenly_spaced(candidates: Tensor, count: int) -> Tensor:
    """A mask of `count` of the True places of each row of `candidates` [n, length].

    Of m candidates those are taken that lie in the middle of `count` equal parts; all if m is less.
    The choice depends on nothing else, so that a repeated pass makes the same.
    """
    rank = candidates.cumsum(1)
    number = rank[:, -1:]
    # Part i ends where rank * count / m + 1/2 passes a whole number; in integers, so exactly.
    here = (2 * rank * count + number) // (2 * number).clamp(min=1)
    before = (2 * (rank - 1) * count + number) // (2 * number).clamp(min=1)
    return candidates & ((here > before) | (number <= count))


def _first_to_last(chosen: Tensor) -> Tensor:
    """A mask [n, length] of places from the first True of each row to the last."""
    return (chosen.cumsum(1) > 0) & _up_to_last(chosen)


def _up_to_last(chosen: Tensor) -> Tensor:
    """A mask [n, length] of places up to the last True of each row."""
    return chosen.flip(1).cumsum(1).flip(1) > 0


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
