"""Which tokens of a batch compute sparsely: those whose output nobody learns from."""

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
    """[n] row numbers, ascending."""
    dense: Tensor
    """[batch * length - n] the others, ascending."""
    real: Tensor | None
    """[batch, length] bool: not padding; None if there is none."""

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
    """[n, length] bool: at or after the first True of the row, and at or before the last."""
    counts = learnt.int()
    begun = counts.cumsum(1) > 0
    not_over = counts.flip(1).cumsum(1).flip(1) > 0
    return begun & not_over
