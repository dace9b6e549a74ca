"""Sparse changes against a dense product in float64: entries and blocks, any runs, neighbours."""

import random

import pytest
import torch
from kinds_pool import (
    BLOCK_BYTES,
    H_IN,
    MODULES,
    NUM_MODULES,
    PATTERNS,
    WIDTHS,
    Pool,
    popularity,
    to_runs,
)

from gossamer.adapters.kinds.sparse_delta import Blocks, Entries
from gossamer.errors import AdapterFormatError
from gossamer.kernels.runs import Run
from gossamer.kernels.sparse_delta import make_batch, make_sparse_delta, stack_tables
from gossamer.kernels.sparse_delta.batch import LONG, LONG_RUN, SHORT
from gossamer.serving.packing.sparse_delta import pack_sparse

IDS = {str(number): number for number in range(NUM_MODULES)}
BACKENDS = ("cpu", "reference")


def entries(h_out, count, generator, dtype):
    """Random places; the same one may come twice."""
    return Entries(
        torch.randint(h_out, (count,), generator=generator),
        torch.randint(H_IN, (count,), generator=generator),
        torch.randn(count, generator=generator).to(dtype),
    )


def blocks(h_out, rng, generator, dtype):
    places = []
    for _ in range(rng.randint(1, 3)):
        row, column = rng.randrange(h_out), rng.randrange(H_IN)
        places.append([row, column, rng.randint(1, h_out - row), rng.randint(1, H_IN - column)])
    size = sum(height * width for _, _, height, width in places)
    values = torch.randn(size, generator=generator).to(dtype)
    return Blocks(torch.tensor(places), values)


class Case:
    """Adapters with random changes, placed in a poisoned pool."""

    def __init__(self, num_adapters, seed=0):
        self.pool = Pool(seed=seed, num_blocks=2000)
        self.generator = torch.Generator().manual_seed(seed)
        rng = random.Random(seed)
        self.dense, tables = [], []
        for slot in range(num_adapters):
            deltas = {}
            dtype = torch.bfloat16 if slot % 3 == 1 else torch.float32
            for m in rng.sample(range(len(MODULES)), rng.randint(1, 3)):
                if rng.random() < 0.5:
                    deltas[m] = blocks(WIDTHS[m], rng, self.generator, dtype)
                else:
                    count = rng.choice((0, 1, 9, 300))
                    deltas[m] = entries(WIDTHS[m], count, self.generator, dtype)
            self.dense.append({m: self._dense(m, delta) for m, delta in deltas.items()})
            by_path = {str(MODULES[m]): delta for m, delta in deltas.items()}
            tables.append(self.pool.place(pack_sparse(by_path, IDS, BLOCK_BYTES)))
        self.tables = stack_tables(tables)

    def _dense(self, m, delta):
        weight = torch.zeros(WIDTHS[m], H_IN, dtype=torch.float64)
        delta.add_to(weight)
        return weight

    def tokens(self, count):
        x = torch.randn(count, H_IN, generator=self.generator)
        return x, torch.randn(count, sum(WIDTHS), generator=self.generator)

    def run(self, runs, x, y, backend="cpu", workers=3):
        result = y.clone()
        batch = make_batch(self.tables, [Run(*r) for r in runs], workers)
        make_sparse_delta(self.pool.memory, MODULES, WIDTHS, backend).add_(result, x, batch)
        return result

    def expected(self, runs, x, y):
        result = y.double()
        for run in (Run(*r) for r in runs):
            tokens = slice(run.first, run.first + run.size)
            for m, weight in self.dense[run.slot].items():
                low = sum(WIDTHS[:m])
                change = run.weight * x[tokens].double() @ weight.T
                result[tokens, low : low + WIDTHS[m]] += change
        return result

    def check(self, runs, count, backend):
        x, y = self.tokens(count)
        got, want = self.run(runs, x, y, backend), self.expected(runs, x, y)
        assert torch.isfinite(got).all()
        size = (want - y.double()).abs().max().clamp(min=1.0)
        assert ((got.double() - want).abs() / size).max() < 1e-5
        touched = torch.zeros(count, dtype=torch.bool)
        for first, number, *_ in runs:
            touched[first : first + number] = True
        assert torch.equal(got[~touched], y[~touched])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_any_popularity(pattern, backend):
    picks = popularity(pattern, 40, random.Random(3))
    Case(max(picks) + 1, seed=1).check(to_runs(picks), 40, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, SHORT, SHORT + 1, LONG_RUN, LONG, LONG + SHORT, 3 * LONG + 9])
def test_runs_of_any_length(count, backend):
    case = Case(4, seed=2)
    for slot in range(4):
        case.check([(1, count, slot)], count + 2, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_weighted_adapters_for_the_same_tokens(backend):
    case = Case(5, seed=3)
    runs = [(0, 50, 0, 0.7), (0, 50, 1, -0.3), (50, 2, 2, 1.0), (52, 3, 3, 2.0), (52, 3, 4, 0.5)]
    case.check(runs, 56, backend)


def test_a_tokens_bits_do_not_depend_on_its_neighbours():
    case = Case(4, seed=5)
    x, y = case.tokens(LONG + SHORT + 3)
    count = len(x)
    alone = torch.cat(
        [case.run([(0, 1, 1)], x[t : t + 1], y[t : t + 1], workers=1) for t in range(count)]
    )
    assert torch.equal(case.run([(0, count, 1)], x, y), alone)
    mixed = case.run([(0, 3, 0), (3, 20, 1), (23, 5, 2)], x, y)
    assert torch.equal(mixed[3:23], alone[3:23])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_are_what_values_and_columns_weigh(dtype):
    """float32 entries 8 bytes, bfloat16 ones 6 (rows of odd length are padded to 4), no zeros."""
    generator = torch.Generator().manual_seed(0)
    case = entries(WIDTHS[1], 300, generator, dtype)
    rows = torch.bincount(case.rows).tolist()
    part = pack_sparse({"0": case}, IDS, BLOCK_BYTES)
    width = 4 if dtype == torch.float32 else 2
    assert part.num_bytes == sum(4 * n + -(-n * width // 4) * 4 for n in rows)
    block = Blocks(torch.tensor([[0, 0, 6, 10]]), torch.ones(60, dtype=dtype))
    assert pack_sparse({"0": block}, IDS, BLOCK_BYTES).num_bytes == 60 * width


@pytest.mark.parametrize("seed", range(4))
def test_blocks_are_cut_by_rows_and_where_a_block_of_memory_ends(seed):
    rng = random.Random(seed)
    places = [[rng.randrange(90), rng.randrange(90), rng.randint(1, 9), rng.randint(1, 40)]
              for _ in range(rng.randrange(12))]  # fmt: skip
    count = sum(height * width for _, _, height, width in places)
    delta = Blocks(torch.tensor(places, dtype=torch.int64).view(-1, 4), torch.arange(float(count)))
    longest = 16
    part = pack_sparse({"0": delta}, IDS, 8 * longest)
    pieces = [
        (row + i, column + low, min(longest, width - low))
        for row, column, height, width in places
        for i in range(height)
        for low in range(0, width, longest)
    ]
    assert [
        *zip(
            part.table.row.tolist(),
            part.table.column.tolist(),
            part.table.length.tolist(),
            strict=True,
        )
    ] == pieces
    assert part.vectors.data.view(torch.float32).tolist() == list(range(count))


@pytest.mark.parametrize("place", [2**31, 2**32 + 3, -2, -(2**40)])
def test_places_that_32_bits_cannot_hold_never_come_to_a_kernel(place):
    """They would wrap around to places of other tokens, or outside of all."""
    value = torch.ones(1)
    inside, outside = torch.tensor([3]), torch.tensor([place])
    for delta in (
        Blocks(torch.tensor([[place, 0, 1, 1]]), value),
        Blocks(torch.tensor([[0, place, 1, 1]]), value),
        Entries(outside, inside, value),
        Entries(inside, outside, value),
    ):
        with pytest.raises(AdapterFormatError, match="rows and columns must lie between 0 and 2"):
            pack_sparse({"0": delta}, IDS, BLOCK_BYTES)
