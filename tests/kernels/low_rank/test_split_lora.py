"""The halves of divided low-rank adapters: all ranks' together are the whole operation."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from lora_case import H_IN, MODULES, NUM_MODULES, WIDTHS, Adapter, Pool, expected, tokens

from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.runs import Run
from gossamer.kernels.split_lora import SplitTable, make_batch, make_split_lora, stack_tables

BACKENDS = ("cpu", "reference")
FORMATS = (RowFormat.FLOAT32, RowFormat.BFLOAT16, RowFormat.INT8)


@dataclass
class Rank:
    """One rank of `size`: what it has of the inputs of a group and of the rows of A."""

    number: int
    size: int
    is_partial: bool

    @property
    def inputs(self):
        each = -(-H_IN // self.size) if self.is_partial else H_IN
        low = self.number * each if self.is_partial else 0
        return slice(low, min(low + each, H_IN))

    def outputs(self, h_out):
        each = -(-h_out // self.size)
        return slice(min(self.number * each, h_out), min((self.number + 1) * each, h_out))

    def own(self, rank):
        return rank if self.is_partial else -(-rank // self.size)


class SplitPool(Pool):
    """Shares of adapters, each row at a place of its own among what is not a number."""

    def make(self, ranks, row_format):
        """Random rows, and the factors in float64 that they stand for."""
        rows, factors = {}, {}
        for module, h_out in zip(MODULES, WIDTHS, strict=True):
            if rank := ranks.get(module, 0):
                a, of_a = self._rows(rank, H_IN, row_format)
                b_t, of_b = self._rows(rank, h_out, row_format)
                rows[module] = (a, of_a, b_t, of_b, 0.5 * (1 + module))
                wide_a, wide_b = a.double() * of_a[:, None], b_t.double() * of_b[:, None]
                factors[module] = (wide_a, wide_b, 0.5 * (1 + module))
        return rows, Adapter(factors, None)

    def share(self, rows, rank):
        """The table of what `rank` has of rows: (A, its scales, B^T, its scales, scale) by module.

        All of it is float64 but the types in which rows rest.
        """
        first = np.zeros(NUM_MODULES, dtype=np.int64)
        own, ranks = (np.zeros(NUM_MODULES, dtype=np.int32) for _ in range(2))
        scale = np.zeros(NUM_MODULES, dtype=np.float32)
        offsets, row_scale = [], []
        for module, (a, of_a, b_t, of_b, factor) in rows.items():
            each = rank.own(len(a))
            first[module], own[module], ranks[module] = len(offsets), each, len(a)
            scale[module] = factor
            if rank.is_partial:
                mine, mine_scale = a[:, rank.inputs], of_a
            else:
                mine = torch.zeros(each, H_IN, dtype=a.dtype)
                mine_scale = torch.zeros(each)
                low = rank.number * each
                found = a[low : low + each]
                mine[: len(found)], mine_scale[: len(found)] = found, of_a[low : low + each]
            for row in [*mine, *b_t[:, rank.outputs(b_t.shape[1])]]:
                elements = self.memory.view(row.dtype)
                place = int(self._free.pop()) * self._block * 4 // row.element_size()
                elements[place : place + len(row)] = row
                offsets.append(place)
            row_scale += [mine_scale, of_b]
        row_format = next(f for f in RowFormat if f.dtype == a.dtype)
        return SplitTable(
            first_row=first,
            own=own,
            rank=ranks,
            scale=scale,
            offsets=np.array(offsets, dtype=np.int64),
            row_scale=torch.cat(row_scale).numpy(),
            format=row_format,
        )


def add_on_ranks(pool, adapters, runs, x, y, backend, size, *, is_partial):
    """`y` after the operation on `size` ranks; each of them cuts the runs in its own way."""
    columns = np.cumsum([0, *WIDTHS])
    operations, found = [], []
    for number in range(size):
        rank = Rank(number, size, is_partial)
        tables = stack_tables([pool.share(rows, rank) for rows in adapters])
        batch = make_batch(tables, [Run(*run) for run in runs], num_workers=1 + number)
        bounds = []
        for low, width in zip(columns, WIDTHS, strict=False):
            own = rank.outputs(width)
            bounds.append((int(low) + own.start, int(low) + own.stop))
        operation = make_split_lora(pool.memory, MODULES, bounds, backend)
        operations.append((operation, batch))
        found.append(operation.shrink(x[:, rank.inputs].contiguous(), batch))
    v = sum(found)[None] if is_partial else torch.stack(found)
    result = y.clone()
    for operation, batch in operations:
        operation.expand_(result, v, batch)
    return result, v


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row_format", FORMATS, ids=lambda row_format: row_format.name)
@pytest.mark.parametrize("is_partial", [False, True], ids=["outputs", "inputs"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_ranks_together_add_what_the_formula_says(size, is_partial, row_format, backend):
    """Ranks that are no multiple of the number of ranks, blends, long runs, tokens of no one."""
    rng = random.Random(size)
    pool = SplitPool(num_elements=1_000_000)
    made = [
        pool.make({m: rng.choice((0, 1, 5, 8, 16)) for m in MODULES} | {0: r}, row_format)
        for r in (1, 5, 16)
    ]
    rows, adapters = zip(*made, strict=True)
    runs = [(0, 1, 1), (1, 70, 0, 0.25), (1, 70, 2, 0.75), (71, 3, 2), (75, 2, 1)]
    x, y = tokens(80)
    got, v = add_on_ranks(pool, rows, runs, x, y, backend, size, is_partial=is_partial)
    want = expected(adapters, runs, x, y)
    size_of = (want - y.double()).abs().max()
    assert ((got.double() - want).abs() / size_of).max() < 1e-5
    assert torch.equal(got[74], y[74])
    # What travels: an entry for each token of each run.
    assert v.shape[1:] == (146, len(MODULES), 16 if is_partial else -(-16 // size))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_travels_for_a_group_that_no_adapter_of_the_step_acts_on(backend):
    pool = SplitPool()
    rows, _ = pool.make({0: 4}, RowFormat.FLOAT32)
    tables = stack_tables([pool.share(rows, Rank(0, 2, is_partial=False))])
    batch = make_batch(tables, [Run(0, 1, 0)], num_workers=1)
    x, _ = tokens(1)
    others = make_split_lora(pool.memory, (2, 3), [(0, 1), (1, 2)], backend)
    assert others.shrink(x, batch) is None
    assert batch.width([0]) == 2
