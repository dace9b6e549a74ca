"""Rows of tokens: some rows of the embedding or of the output layer are the adapter's own."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowTable:
    """Places of one resident adapter's rows [n, width]; tensors are where the pool is."""

    ids: Tensor
    """Shape [n], int64: whose row each is, ascending."""
    offsets: Tensor
    """Shape [n], int64: place of each row in the pool, in elements of `dtype`."""
    pieces: tuple[tuple[int, int, int], ...]
    """(place, first row, rows) of the rows that lie one behind the other."""
    width: int
    dtype: torch.dtype


def embed_(x: Tensor, ids: Tensor, pool: Tensor, table: RowTable, scale: float | Tensor) -> None:
    """Replace x[t], in place, by scale times the row of ids[t] where the table has one.

    x: [T, width]; ids: [T], int64, which the host need not know; pool: the block pool's bytes.
    """
    found = torch.searchsorted(table.ids, ids).clamp(max=len(table.ids) - 1)
    columns = torch.arange(table.width, device=x.device)
    rows = pool.view(table.dtype)[table.offsets[found][:, None] + columns].to(x.dtype) * scale
    x.copy_(torch.where((table.ids[found] == ids)[:, None], rows, x))


def output_(logits: Tensor, x: Tensor, pool: Tensor, table: RowTable, bias: Tensor | None) -> None:
    """Compute, in place, the logits that the table's rows make of x, in the rows' own format.

    logits: [rows, vocabulary]; x: [rows, width]; bias: of the output layer, [vocabulary].
    """
    elements, read = pool.view(table.dtype), x.to(table.dtype)
    for place, first, count in table.pieces:
        own = elements[place : place + count * table.width].view(count, table.width)
        made = (read @ own.T).to(logits.dtype)
        ids = table.ids[first : first + count]
        logits[:, ids] = made if bias is None else made + bias[ids]
