"""Adapters scattered over a poisoned pool, and what they must compute, in float64."""

from dataclasses import dataclass

import numpy as np
import torch

from gossamer.kernels.grouped_lora import (
    LoraTable,
    RowFormat,
    make_batch,
    make_grouped_lora,
    stack_tables,
)
from gossamer.kernels.runs import Run

H_IN = 37
WIDTHS = (19, 44, 7)
"""h_out of the modules of the group; none is a multiple of 8."""
MODULES = (2, 0, 3)
"""Their ids; the whole model has five modules."""
NUM_MODULES = 5


@dataclass
class Adapter:
    """One adapter: its factors in float64 as they rest in the pool, and its table."""

    factors: dict
    """(A [r, h_in], B transposed [r, h_out], scale) by module id."""
    table: LoraTable


class Pool:
    """Bytes that are not a number wherever nothing was written."""

    def __init__(self, num_elements=400_000, block_elements=64, seed=0):
        self.memory = torch.full((num_elements,), float("nan")).view(torch.uint8)
        self._block = block_elements
        self._free = list(np.random.default_rng(seed).permutation(num_elements // block_elements))
        self.generator = torch.Generator().manual_seed(seed)

    def adapter(self, ranks, *, row_format=RowFormat.FLOAT32, scale=0.5):
        """Random factors; `ranks` by module id (0 or absent: none), rows packed into blocks."""
        elements = self.memory.view(row_format.dtype)
        block_elements = self._block * 4 // row_format.dtype.itemsize
        offsets, row_scales, factors = [], [], {}
        first_row = np.zeros(NUM_MODULES, dtype=np.int64)
        rank = np.zeros(NUM_MODULES, dtype=np.int32)
        scales = np.zeros(NUM_MODULES, dtype=np.float32)
        block, used = self._free.pop(), 0
        for module, h_out in zip(MODULES, WIDTHS, strict=True):
            r = ranks.get(module, 0)
            if not r:
                continue
            first_row[module], rank[module] = len(offsets), r
            scales[module] = scale * (1 + module)
            a, a_scale = self._rows(r, H_IN, row_format)
            b_t, b_scale = self._rows(r, h_out, row_format)
            row_scales += [a_scale, b_scale]
            for row in [*a, *b_t]:
                if used + len(row) > block_elements:
                    block, used = self._free.pop(), 0
                low = int(block) * block_elements + used
                elements[low : low + len(row)] = row
                offsets.append(low)
                used += len(row)
            a, b_t = a.double() * a_scale[:, None], b_t.double() * b_scale[:, None]
            factors[module] = (a, b_t, float(scales[module]))
        table = LoraTable(
            first_row=first_row,
            rank=rank,
            scale=scales,
            offsets=np.array(offsets, dtype=np.int64),
            row_scale=torch.cat(row_scales or [torch.ones(0)]).numpy(),
            format=row_format,
        )
        return Adapter(factors, table)

    def _rows(self, count, width, row_format):
        """Elements [count, width] as they rest, and the scale of each row."""
        rows = torch.randn(count, width, generator=self.generator)
        if row_format is RowFormat.INT8:
            scale = torch.rand(count, generator=self.generator) * 0.02 + 0.01
            return (rows / 0.03).clamp(-127, 127).round().to(torch.int8), scale
        return rows.to(row_format.dtype), torch.ones(count)


def add(pool, adapters, runs, x, y, backend="cpu", num_workers=3):
    """`y` after the operation; runs are (first token, tokens, adapter[, weight])."""
    tables = stack_tables([adapter.table for adapter in adapters])
    batch = make_batch(tables, [Run(*run) for run in runs], num_workers)
    result = y.clone()
    make_grouped_lora(pool.memory, MODULES, WIDTHS, backend).add_(result, x, batch)
    return result


def expected(adapters, runs, x, y):
    """The same in float64, by the formula."""
    result = y.double()
    for first, count, slot, weight in (Run(*run) for run in runs):
        tokens = slice(first, first + count)
        low = 0
        for module, h_out in zip(MODULES, WIDTHS, strict=True):
            if module in adapters[slot].factors:
                a, b_t, scale = adapters[slot].factors[module]
                result[tokens, low : low + h_out] += (
                    weight * scale * (x[tokens].double() @ a.T) @ b_t
                )
            low += h_out
    return result


def tokens(count, seed=0):
    """x [count, h_in] and y [count, all widths]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, H_IN, generator=generator)
    return x, torch.randn(count, sum(WIDTHS), generator=generator)
