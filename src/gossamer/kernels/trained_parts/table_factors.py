"""Low-rank changes of tables: the embedding or the output layer plus scale * tokens @ width."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FactorTable:
    """Places of one resident adapter's factors; tensors are where the pool is."""

    tokens: Tensor
    """Shape [n], int64: place of each token's row [rank] in the pool, in elements of `dtype`."""
    pieces: tuple[tuple[int, int, int], ...]
    """(place, first token, tokens) of the rows that lie one behind the other."""
    width: Tensor
    """Shape [rank], int64: places of the rows [hidden] of the other factor."""
    hidden: int
    scale: float
    dtype: torch.dtype

    @property
    def rank(self) -> int:
        """The rank."""
        return len(self.width)

    def wide(self, elements: Tensor) -> Tensor:
        """Return the other factor [rank, hidden], times the scale, as float32."""
        columns = torch.arange(self.hidden, device=elements.device)
        return elements[self.width[:, None] + columns].float() * self.scale


def embed_add_(
    x: Tensor, ids: Tensor, pool: Tensor, table: FactorTable, scale: float | Tensor
) -> None:
    """Add to x[t], in place, `scale` times what the factors make of the row of ids[t].

    x: [T, hidden]; ids: [T], int64, which the host need not know; pool: the block pool's bytes.
    """
    elements = pool.view(table.dtype)
    columns = torch.arange(table.rank, device=x.device)
    rows = elements[table.tokens[ids][:, None] + columns].float()
    change = torch.zeros_like(x, dtype=torch.float32)
    # Not as a product of matrices, whose bits may depend on the number of tokens: a prompt gets the
    # same states whatever it is computed with.
    for part, own in zip(rows.T, table.wide(elements), strict=True):
        change.addcmul_(part[:, None], own)
    x += (change * scale).to(x.dtype)


def output_add_(logits: Tensor, x: Tensor, pool: Tensor, table: FactorTable) -> None:
    """Add, in place, what the factors make of x to the logits of all their tokens.

    logits: [rows, vocabulary]; x: [rows, hidden].
    """
    elements = pool.view(table.dtype)
    narrow = x.float() @ table.wide(elements).T
    for place, first, count in table.pieces:
        own = elements[place : place + count * table.rank].view(count, table.rank)
        logits[:, first : first + count] += (narrow @ own.float().T).to(logits.dtype)
