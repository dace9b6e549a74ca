"""Sparse changes in Triton, interpreted, against a dense product in float64."""

import random

import numpy as np
import pytest
import torch
from kinds_pool import BLOCK_BYTES, H_IN, MODULES, NUM_MODULES, WIDTHS, Pool

from gossamer.adapters.kinds.sparse_delta import Blocks, Entries
from gossamer.kernels.bundles import Grid, make_bundles
from gossamer.kernels.runs import Run
from gossamer.kernels.sparse_delta import SparseTable
from gossamer.kernels.sparse_delta.device_table import (
    BAND,
    BAND_RECORD,
    HEADER,
    SEGMENT,
    order_bands,
    write_fixed,
    write_places,
)
from gossamer.kernels.sparse_delta.triton_kernels import ENTRIES, TritonSparseDelta
from gossamer.serving.packing.sparse_delta import pack_sparse

IDS = {str(number): number for number in range(NUM_MODULES)}
ALL_WIDTHS = [WIDTHS[MODULES.index(m)] if m in MODULES else 30 for m in range(NUM_MODULES)]
BOUNDS = {torch.float32: 4e-7, torch.bfloat16: 2.5e-3, torch.float16: 3e-4}
"""The error of the result, relative to the size of what is added."""


class Sparse:
    """Adapters with sparse changes in a poisoned pool, their tables beside them."""

    def __init__(self, seed=0):
        self.pool = Pool(seed=seed, num_blocks=2000)
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = random.Random(seed)
        self.dense, self.tables, self.costs = [], [], []
        # Tables may be longer than blocks here: they lie behind those, from the end on.
        behind = torch.full((25_000,), float("nan")).view(torch.uint8)
        self.pool.memory = torch.cat([self.pool.memory, behind])
        self._end = len(self.pool.memory)

    def entries(self, m, count, dtype=torch.float32):
        """Random places; the same one may come twice, and a row may have none."""
        return Entries(
            torch.randint(WIDTHS[m], (count,), generator=self.generator),
            torch.randint(H_IN, (count,), generator=self.generator),
            torch.randn(count, generator=self.generator).to(dtype),
        )

    def blocks(self, places, dtype=torch.float32):
        """Blocks at (row, column, height, width)."""
        size = sum(height * width for _, _, height, width in places)
        values = torch.randn(size, generator=self.generator).to(dtype)
        return Blocks(torch.tensor(places), values)

    def add(self, deltas):
        """Add an adapter with these changes, by place of the module in the group."""
        dense = {}
        for m, delta in deltas.items():
            dense[m] = torch.zeros(WIDTHS[m], H_IN, dtype=torch.float64)
            delta.add_to(dense[m])
        by_path = {str(MODULES[m]): delta for m, delta in deltas.items()}
        table = self.pool.place(pack_sparse(by_path, IDS, BLOCK_BYTES))
        self.tables.append(self._place_table(table))
        self.costs.append(int(table.length.sum()))
        self.dense.append(dense)

    def _place_table(self, table):
        """Write the vectors of a table in any order, with gaps; returns the place of the first."""
        bands = order_bands(table, ALL_WIDTHS)
        sizes = bands.vector_bytes
        places = np.zeros(len(sizes), np.int64)
        for i in self.rng.sample(range(len(sizes)), len(sizes)):
            self._end -= int(sizes[i]) + 16 * self.rng.randint(0, 2)
            places[i] = self._end
        out = np.full(int(sizes.sum()), 255, np.uint8)
        write_fixed(table, bands, out)
        write_places(table.offset, bands, places, out)
        vectors = torch.from_numpy(out).split(sizes.tolist())
        for place, vector in zip(places.tolist(), vectors, strict=True):
            self.pool.memory[place : place + len(vector)] = vector
        return int(places[0])

    def run(self, runs, x, y, *, tokens=8, grid=None, halves=(False, True)):
        result = y.clone()
        bundles = make_bundles([Run(*r) for r in runs], self.tables, self.costs, tokens, grid)
        TritonSparseDelta(self.pool.memory, MODULES, WIDTHS, halves=halves).add_(result, x, bundles)
        return result

    def expected(self, runs, x, y):
        result = y.double()
        for first, count, slot, weight in (Run(*r) for r in runs):
            tokens = slice(first, first + count)
            for m, change in self.dense[slot].items():
                low = sum(WIDTHS[:m])
                result[tokens, low : low + WIDTHS[m]] += weight * x[tokens].double() @ change.T
        return result

    def inputs(self, count, dtype=torch.float32):
        x = torch.randn(count, H_IN, generator=self.generator).to(dtype)
        return x, torch.randn(count, sum(WIDTHS), generator=self.generator).to(dtype)

    def check(self, runs, count, dtype=torch.float32, **options):
        x, y = self.inputs(count, dtype)
        got, want = self.run(runs, x, y, **options), self.expected(runs, x, y)
        assert torch.isfinite(got).all()
        error = (got.double() - want).norm() / (want - y.double()).norm()
        assert error < BOUNDS[dtype], float(error)
        touched = torch.zeros(count, dtype=torch.bool)
        for first, number, *_ in runs:
            touched[first : first + number] = True
        assert torch.equal(got[~touched], y[~touched])


def mixed(sparse, dtype):
    """Scattered entries, blocks that meet in rows and lie across bands, both, and few entries."""
    sparse.add({0: sparse.entries(0, 300, dtype), 1: sparse.entries(1, 1000, dtype)})
    places = [[3, 5, 20, 17], [8, 30, 30, 7], [0, 5, 2, 1]]
    sparse.add({1: sparse.blocks(places, dtype), 2: sparse.blocks([[0, 0, 7, 37]], dtype)})
    sparse.add({0: sparse.blocks([[1, 2, 16, 33]], dtype), 2: sparse.entries(2, 1, dtype)})
    sparse.add({0: sparse.entries(0, 9, dtype)})


RUNS = [(1, 1, 0), (2, 3, 1), (5, 2, 2, 0.7), (5, 2, 0, -0.3), (5, 2, 1, 1.5), (8, 5, 3)]
"""Tokens 0, 7 and 13 meet no adapter."""


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.bfloat16),
    ],
)
def test_entries_and_blocks_and_blends_in_a_padded_grid(dtype, values):
    sparse = Sparse()
    mixed(sparse, values)
    grid = Grid(bundles=6, entries=9, rows=30)
    sparse.check(RUNS, 14, dtype, grid=grid, halves=[values == torch.bfloat16])


def test_adapters_with_values_of_both_types_in_one_batch():
    sparse = Sparse(seed=1)
    for slot, dtype in enumerate((torch.float32, torch.bfloat16)):
        sparse.add({0: sparse.entries(0, 100 + slot, dtype)})
        sparse.add({0: sparse.blocks([[2, 1, 17, 30]], dtype)})
    sparse.check([(0, 2, 0), (2, 1, 1), (3, 1, 2), (3, 1, 1), (4, 2, 3)], 7)


@pytest.mark.parametrize("tokens", [16, 64])
def test_long_runs_in_bundles_of_many_tokens(tokens):
    sparse = Sparse(seed=2)
    sparse.add({2: sparse.entries(2, 60), 0: sparse.blocks([[0, 0, 19, 37]])})
    sparse.check([(1, tokens + 1, 0)], tokens + 3, tokens=tokens)


def test_more_entries_of_a_row_than_are_taken_at_a_time():
    sparse = Sparse(seed=3)
    rows = torch.zeros(3 * ENTRIES + 5, dtype=torch.long)
    columns = torch.randint(H_IN, rows.shape, generator=sparse.generator)
    values = torch.randn(len(rows), generator=sparse.generator)
    sparse.add({2: Entries(rows, columns, values)})
    sparse.check([(0, 2, 0)], 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tokens_result_is_the_same_whatever_its_neighbours(dtype):
    """Bit for bit, at any place of its bundle."""
    sparse = Sparse(seed=4)
    mixed(sparse, torch.bfloat16)
    x, y = sparse.inputs(12, dtype)
    for slot in (0, 1):
        alone = sparse.run([(3, 1, slot)], x, y)[3]
        for runs in ([(0, 2, 2), (2, 9, slot)], [(3, 1, slot), (4, 8, 3)]):
            assert torch.equal(sparse.run(runs, x, y)[3], alone)


def test_an_adapter_without_changes_in_the_group_leaves_all_as_it_is():
    sparse = Sparse(seed=5)
    sparse.add({})
    x, y = sparse.inputs(3)
    assert torch.equal(sparse.run([(0, 3, 0)], x, y), y)


def test_columns_of_other_modules_are_not_written_back():
    """Their own programs may be writing them at that time."""
    sparse = Sparse(seed=6)
    sparse.add({0: sparse.blocks([[0, 0, WIDTHS[0], H_IN]])})
    x, y = sparse.inputs(2)
    # A zero that is read and written back, with nothing added, loses its sign.
    got = sparse.run([(0, 2, 0)], x, torch.full_like(y, -0.0))
    assert got[:, : WIDTHS[0]].all()
    assert got[:, WIDTHS[0] :].signbit().all()


def test_a_table_says_where_the_segments_of_each_band_are():
    table = SparseTable(
        first=np.array([0, 0, 2]),
        count=np.array([2, 0, 4]),
        row=np.array([17, 1, 3, 2, 3, 20], np.int32),
        column=np.array([-1, -1, 8, 4, 4, -1], np.int32),
        length=np.array([5, 6, 7, 8, 9, 10], np.int32),
        offset=np.array([100, 200, 300, 400, 500, 2**40]),
        half=True,
    )
    bands = order_bands(table, [18, 5, 33])
    sizes = bands.vector_bytes
    # Headers, the bands of two modules, and those of five bands that have segments.
    assert sizes.tolist() == [3 * 16, 2 * 16, 3 * 16, 16, 16, 3 * 16, 16]
    places = 16 * (np.arange(len(sizes)) + 2**40)
    out = np.full(int(sizes.sum()), 255, np.uint8)
    write_fixed(table, bands, out)
    # The last places count.
    for shift in (160, 0):
        write_places(table.offset + shift, bands, places + shift, out)
    header, one, other, *segments = np.split(out, np.cumsum(sizes)[:-1])
    assert header.view(HEADER)["bands"].tolist() == [places[1] // 8, -1, places[2] // 8]
    assert header.view(HEADER)["half"].all()
    assert one.view(BAND_RECORD)["count"].tolist() == [1, 1]
    assert one.view(BAND_RECORD)["segments"].tolist() == (places[3:5] // 8).tolist()
    assert other.view(BAND_RECORD)["count"].tolist() == [3, 1, 0]
    assert other.view(BAND_RECORD)["segments"].tolist() == [*(places[5:] // 8).tolist(), 0]
    segments = np.concatenate(segments).view(SEGMENT)
    # Within a band by column, then by row.
    assert segments["offset"].tolist() == [200, 100, 400, 500, 300, 2**40]
    assert segments["column"].tolist() == [-1, -1, 4, 4, 8, -1]
    assert (segments["length_and_row"] // BAND).tolist() == [6, 5, 8, 9, 7, 10]
    assert (segments["length_and_row"] % BAND).tolist() == [1, 1, 2, 3, 3, 4]
