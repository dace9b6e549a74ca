"""Grouped LoRA for long runs of tokens (prefill): gather the factors, then two matrix products."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gossamer.kernels.grouped_lora.batch import LoraBatch, RowFormat, Tables


def add_lora_long(
    batch: LoraBatch, pool: Tensor, modules: Sequence[int], columns: Sequence[int], x: Tensor,
    y: Tensor,
) -> None:  # fmt: skip
    """As `reference.add_lora`, for `batch.long_runs` only; modules share one product with x."""
    for first, count, slot, weight in batch.long_runs:
        present = [m for m, module in enumerate(modules) if batch.tables.rank[slot, module]]
        if not present:
            continue
        x_run = x[first : first + count]
        factors_a = torch.cat([_rows(batch.tables, pool, slot, modules[m], x, 0) for m in present])
        v = x_run @ factors_a.T
        low = 0
        for m in present:
            module = modules[m]
            rank = int(batch.tables.rank[slot, module])
            y_m = y[first : first + count, columns[m] : columns[m + 1]]
            b_t = _rows(batch.tables, pool, slot, module, y_m, rank)
            scale = weight * float(batch.tables.scale[slot, module])
            torch.addmm(y_m, v[:, low : low + rank], b_t, alpha=scale, out=y_m)
            low += rank


def _rows(tables: Tables, pool: Tensor, slot: int, module: int, like: Tensor, skip: int) -> Tensor:
    """Rows of A (skip 0) or of B transposed (skip rank), as wide and of the type as `like`."""
    width = like.shape[1]
    rank = int(tables.rank[slot, module])
    first = int(tables.first_row[slot, module]) + skip
    offsets = tables.offsets[first : first + rank]
    row_format = RowFormat(int(tables.format[slot]))
    elements = pool.view(row_format.dtype)
    if (np.diff(offsets) == width).all():
        # The usual case: the rows lie one behind the other. No copy for float32.
        low = int(offsets[0])
        rows = elements[low : low + rank * width].view(rank, width)
    else:
        rows = torch.empty(rank, width, dtype=elements.dtype)
        for row, offset in zip(rows, offsets.tolist(), strict=True):
            row.copy_(elements[offset : offset + width])
    rows = rows.to(like.dtype)
    if row_format is RowFormat.INT8:
        rows *= torch.from_numpy(tables.row_scale[first : first + rank])[:, None]
    return rows
