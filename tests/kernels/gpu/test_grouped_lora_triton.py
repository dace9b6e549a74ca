"""Grouped LoRA with gain in Triton, interpreted, against its formula in float64."""

import random

import numpy as np
import pytest
import torch

from gossamer.kernels.bundles import Grid, make_bundles
from gossamer.kernels.gain import GainTable
from gossamer.kernels.grouped_lora import LoraTable, RowFormat
from gossamer.kernels.grouped_lora.device_table import vector_bytes, write_table
from gossamer.kernels.grouped_lora.triton_kernels import TOGETHER, TritonGroupedLora
from gossamer.kernels.module_header import HEADER
from gossamer.kernels.runs import Run
from gossamer.kernels.scratch import ScratchMemory

NUM_MODULES = 5
MODULES = (2, 0, 3)
"""Their ids; the whole model has five modules."""
WIDTHS = (190, 44, 300)
"""h_out of each; the last takes two tiles of columns."""
H_IN = 1300
"""Two slabs, the second not full."""
FLOAT, HALF, INT8, FLOAT16 = RowFormat
BOUNDS = {torch.float32: 5e-7, torch.bfloat16: 2.1e-3, torch.float16: 3e-4}
"""The error of the result, relative to the size of what is added: little more than that of rounding
the result, which a low-rank product of half the precision would exceed."""


class Adapters:
    """Adapters in a pool that is not a number wherever nothing was written."""

    def __init__(self, seed=0, h_in=H_IN, widths=WIDTHS, num_bytes=4_000_000):
        self.h_in, self.widths = h_in, widths
        self.pool = torch.full((num_bytes,), 255, dtype=torch.uint8)
        self.generator = torch.Generator().manual_seed(seed)
        self.tables, self.total_rank, self.factors, self.gains = [], [], [], []
        self._rng = random.Random(seed)
        self._used = 16

    def _place(self, array):
        """Write the elements of a tensor behind a gap; returns their first byte."""
        self._used += 16 * self._rng.randint(0, 3)
        low = self._used
        data = array.contiguous().view(torch.uint8).reshape(-1)
        self.pool[low : low + len(data)] = data
        self._used = -(-(low + len(data)) // 16) * 16
        return low

    def add(self, ranks=(0, 0, 0), row_format=FLOAT, gains=(), keeps_bias=False):
        """Add an adapter with these ranks, and a gain of the outputs of the modules `gains`."""
        first_row, rank = np.zeros(NUM_MODULES, np.int64), np.zeros(NUM_MODULES, np.int32)
        scale = np.zeros(NUM_MODULES, np.float32)
        rows, row_scales, factors = [], [], {}
        for m, r in enumerate(ranks):
            if not r:
                continue
            module = MODULES[m]
            first_row[module], rank[module] = len(rows), r
            scale[module] = self._rng.uniform(0.5, 2)
            a, a_scale = self._factor(r, self.h_in, row_format)
            b, b_scale = self._factor(r, self.widths[m], row_format)
            rows += [*a, *b]
            row_scales += [a_scale, b_scale]
            exact = (a.double() * a_scale[:, None]), (b.double() * b_scale[:, None])
            factors[m] = (*exact, float(scale[module]))
        offsets = np.zeros(len(rows), np.int64)
        for i in self._rng.sample(range(len(rows)), len(rows)):
            offsets[i] = self._place(rows[i]) // rows[i].element_size()
        lora = LoraTable(
            first_row=first_row,
            rank=rank,
            scale=scale,
            offsets=offsets,
            row_scale=torch.cat(row_scales or [torch.ones(0)]).numpy(),
            format=row_format,
        )
        gain_of = {m: torch.randn(self.widths[m], generator=self.generator) + 1 for m in gains}
        places = np.full(NUM_MODULES, -1, np.int64)
        for m, gain in gain_of.items():
            places[MODULES[m]] = self._place(gain) // 4
        gain = GainTable(
            offsets=places, scales_input=np.zeros(NUM_MODULES, bool), keeps_bias=keeps_bias
        )
        has_gain = bool(gains) or not factors
        self.tables.append(self.place_table(lora if factors else None, gain if has_gain else None))
        self.total_rank.append(sum(ranks))
        self.factors.append(factors)
        self.gains.append((gain_of, keeps_bias))
        return len(self.tables) - 1

    def place_table(self, lora, gain):
        """Write the vectors of a table, each behind a gap; returns the first byte of the first."""
        sizes = vector_bytes(
            NUM_MODULES, lora and lora.rank, lora.format if lora is not None else FLOAT
        )
        out = np.full(int(sizes.sum()), 255, np.uint8)
        vectors = torch.from_numpy(out).split(sizes.tolist())
        # Poison at first: where vectors go has to be known before they are written.
        places = [self._place(vector) for vector in vectors]
        write_table(lora, gain, np.array(places), out)
        for place, vector in zip(places, vectors, strict=True):
            self.pool[place : place + len(vector)] = vector
        return places[0]

    def _factor(self, rank, width, row_format):
        rows = torch.randn(rank, width, generator=self.generator)
        if row_format is INT8:
            scale = torch.rand(rank, generator=self.generator) * 0.02 + 0.01
            return (rows * 40).clamp(-127, 127).to(torch.int8), scale
        return rows.to(row_format.dtype), torch.ones(rank)

    def tokens(self, count, dtype=torch.float32, seed=0):
        """x [count, h_in] and y [count, sum of widths]."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, self.h_in, generator=generator) / self.h_in**0.5
        return x.to(dtype), torch.randn(count, sum(self.widths), generator=generator).to(dtype)

    def run(self, runs, x, y, *, tokens=8, grid=None, bias=None, formats=TOGETHER):
        """`y` after the operation; runs are (first token, tokens, adapter[, weight])."""
        bundles = make_bundles(
            [Run(*run) for run in runs], self.tables, self.total_rank, tokens, grid
        )
        scratch = ScratchMemory(self.pool.device)
        scratch.take(2**20).fill_(float("nan"))
        group = TritonGroupedLora(
            self.pool, MODULES[: len(self.widths)], self.widths, self.h_in, scratch, bias=bias,
            formats=formats,
        )  # fmt: skip
        result = y.clone()
        group.add_(result, x, bundles.to(y.device))
        return result

    def expected(self, runs, x, y, bias=None):
        """The same in float64, by the formula: all that is added, then the gain."""
        result = y.double()
        ends = np.cumsum([0, *self.widths])
        for first, count, slot, weight in (Run(*run) for run in runs):
            tokens = slice(first, first + count)
            for m, (a, b, scale) in self.factors[slot].items():
                part = weight * scale * (x[tokens].double() @ a.T) @ b
                result[tokens, ends[m] : ends[m + 1]] += part
        for first, count, slot, _ in (Run(*run) for run in runs):
            gains, keeps_bias = self.gains[slot]
            for m, gain in gains.items():
                part = result[first : first + count, ends[m] : ends[m + 1]]
                kept = bias[ends[m] : ends[m + 1]].double() if keeps_bias else 0
                part.copy_(gain.double() * (part - kept) + kept)
        return result

    def check(self, runs, num_tokens, dtype=torch.float32, bias=None, **options):
        """Compare the operation with its formula, and other tokens with what they were."""
        x, y = self.tokens(num_tokens, dtype)
        got = self.run(runs, x, y, bias=bias, **options)
        want = self.expected(runs, x, y, bias)
        assert torch.isfinite(got).all()
        untouched = torch.ones(num_tokens, dtype=torch.bool)
        for first, count, *_ in runs:
            untouched[first : first + count] = False
        assert torch.equal(got[untouched], y[untouched])
        # Rounding of the result is part of its error where what is added is small.
        error = (got.double() - want).norm() / (want - y.double()).norm()
        # In bfloat16, rows of float32 and float16 are rounded as well.
        rounded = dtype == torch.bfloat16 and options.get("formats") not in ([HALF], [INT8])
        assert error < BOUNDS[dtype] * (1.5 if rounded else 1), float(error)
        return got


MIXED = [(1, 4, 0), (16, 0, 3), (33, 5, 64), (0, 0, 12), (8, 8, 8), (0, 17, 0)]
RUNS = [
    (1, 1, 0),
    (2, 3, 1),
    (5, 2, 2, 0.7),
    (5, 2, 3, -0.3),
    (5, 2, 0, 0.5),
    (7, 9, 4),
    (17, 1, 5, -1.0),
    (18, 1, 2),
]
"""Tokens 0, 16 and 19 meet no adapter."""

SOME = [(torch.float32, FLOAT), (torch.bfloat16, HALF), (torch.float16, INT8)]
OTHERS = [
    *((torch.float32, row_format) for row_format in (HALF, INT8)),
    *((torch.bfloat16, row_format) for row_format in (FLOAT, INT8, FLOAT16)),
    *((torch.float16, row_format) for row_format in (HALF, FLOAT16)),
]


@pytest.mark.parametrize(("dtype", "row_format"), SOME)
def test_mixed_ranks_and_blends_in_a_padded_grid(dtype, row_format):
    adapters = Adapters()
    for ranks in MIXED:
        adapters.add(ranks, row_format)
    grid = Grid(bundles=10, entries=16, rows=40)
    adapters.check(RUNS, 20, dtype, grid=grid, formats=[row_format])


@pytest.mark.parametrize(("dtype", "row_format"), OTHERS)
def test_rows_of_every_format_for_inputs_of_every_type(dtype, row_format):
    adapters = Adapters(h_in=1100, widths=(190, 44))
    for ranks in ((1, 17), (20, 0)):
        adapters.add(ranks, row_format)
    runs = [(1, 2, 0), (3, 2, 1, 0.7), (3, 2, 0, -0.3)]
    adapters.check(runs, 6, dtype, formats=[row_format])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_of_several_formats_in_one_batch(dtype):
    adapters = Adapters(h_in=200, widths=(190, 44))
    for row_format, ranks in zip(TOGETHER, ((1, 17), (20, 0), (3, 5)), strict=True):
        adapters.add(ranks, row_format)
    adapters.check([(0, 1, 0), (1, 2, 1, 0.7), (1, 2, 2, -0.3), (4, 3, 2)], 8, dtype)


@pytest.mark.parametrize("tokens", [16, 64])
def test_long_runs_in_bundles_of_many_tokens(tokens):
    adapters = Adapters(h_in=1024, widths=(300,))
    for rank in (7, 64, 0):
        adapters.add((rank,), HALF)
    low = tokens + 3
    runs = [(0, low, 0), (low, 5, 1, 0.5), (low, 5, 0, 0.25), (tokens + 9, 2, 2)]
    adapters.check(runs, tokens + 12, torch.bfloat16, tokens=tokens, formats=[HALF])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_highest_rank(dtype):
    adapters = Adapters(h_in=48, widths=(64, 16))
    adapters.add((256, 1))
    adapters.check([(0, 3, 0)], 4, dtype, formats=[FLOAT])


THREE, FOUR = [(0, 2, 1), (2, 9, 0), (11, 1, 2)], [(0, 3, 2), (3, 1, 0), (4, 8, 1), (4, 8, 0)]
DECODE = (torch.bfloat16, 8, [THREE, FOUR])
PREFILL = (torch.float32, 64, [[(0, 10, 0), (10, 2, 1), (10, 2, 0)]])


@pytest.mark.parametrize(("dtype", "tokens", "companies"), [DECODE, PREFILL])
def test_a_tokens_result_is_the_same_whatever_its_neighbours(dtype, tokens, companies):
    """Bit for bit, within a variant, at any place of its bundle."""
    adapters = Adapters(h_in=1100, widths=(190,))
    for rank in (20, 40, 3):
        adapters.add((rank,), HALF)
    x, y = adapters.tokens(12, dtype)
    options = {"tokens": tokens, "formats": [HALF]}
    alone = adapters.run([(3, 1, 0)], x, y, **options)[3]
    for runs in companies:
        assert torch.equal(adapters.run(runs, x, y, **options)[3], alone)


def test_columns_of_other_modules_are_not_written_back():
    """Their own programs may be writing them at that time."""
    adapters = Adapters(h_in=64)
    adapters.add((3, 0, 0))
    x, y = adapters.tokens(2)
    # A zero that is read and written back, with nothing added, loses its sign.
    got = adapters.run([(0, 2, 0)], x, torch.full_like(y, -0.0))
    assert got[:, : WIDTHS[0]].all()
    assert got[:, WIDTHS[0] :].signbit().all()


# The gain.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gains_with_and_without_rows_and_bias(dtype):
    adapters = Adapters(h_in=64)
    adapters.add((4, 0, 9), HALF, gains=(0, 1, 2), keeps_bias=True)  # DoRA
    adapters.add(gains=(1, 2))  # IA3
    adapters.add((3, 3, 3), HALF)
    adapters.add(gains=(0,), keeps_bias=True)
    adapters.add((0, 16, 0), HALF, gains=(2,))
    runs = [(0, 3, 0), (3, 2, 1), (5, 1, 2), (6, 1, 3), (7, 2, 4)]
    bias = torch.randn(sum(WIDTHS), generator=adapters.generator).to(dtype)
    got = adapters.check(runs, 10, dtype, bias=bias, formats=[HALF])
    _, y = adapters.tokens(10, dtype)
    # What a gain does not name stays as it is, to the bit.
    assert torch.equal(got[3:5, : WIDTHS[0]], y[3:5, : WIDTHS[0]])
    assert torch.equal(got[6, WIDTHS[0] :], y[6, WIDTHS[0] :])


def test_a_gain_that_keeps_the_bias_where_the_layer_has_none():
    adapters = Adapters(h_in=64)
    adapters.add((4, 0, 9), HALF, gains=(0, 2), keeps_bias=True)
    x, y = adapters.tokens(2)
    got = adapters.run([(0, 1, 0)], x, y)
    want = adapters.expected([(0, 1, 0)], x, y, torch.zeros(sum(WIDTHS)))
    assert (got.double() - want).norm() / want.norm() < 1e-6


def test_a_gain_of_inputs_leaves_the_outputs_alone():
    adapters = Adapters(h_in=64)
    offsets = np.full(NUM_MODULES, 4, np.int64)
    gain = GainTable(offsets=offsets, scales_input=np.ones(NUM_MODULES, bool), keeps_bias=False)
    adapters.tables, adapters.total_rank = [adapters.place_table(None, gain)], [0]
    x, y = adapters.tokens(2)
    assert torch.equal(adapters.run([(0, 2, 0)], x, y), y)


# The table.


def lora_table(row_format, offsets=(32, 64, 16, 48, 80, 0)):
    return LoraTable(
        first_row=np.array([0, 0, 2], np.int64),
        rank=np.array([1, 0, 2], np.int32),
        scale=np.array([0.5, 0, 2], np.float32),
        offsets=np.array(offsets, np.int64),
        row_scale=np.arange(6, dtype=np.float32) + 1,
        format=row_format,
    )


def written(lora, gain, places):
    """The vectors of a table."""
    num_modules = 3 if lora is not None else len(gain.offsets)
    sizes = vector_bytes(num_modules, lora and lora.rank, lora.format if lora else FLOAT)
    assert not (sizes % 16).any()
    out = np.full(int(sizes.sum()), 255, np.uint8)
    write_table(lora, gain, np.array(places), out)
    return np.split(out, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("row_format", RowFormat)
def test_a_table_says_where_everything_is(row_format):
    lora = lora_table(row_format)
    gain = GainTable(
        offsets=np.array([2**40, -1, 8]),
        scales_input=np.array([False, False, True]),
        keeps_bias=True,
    )
    places = [64, 2**41, 32]
    header, *vectors = written(lora, gain, places)
    header = header.view(HEADER)
    assert header["rows"][[0, 2]].tolist() == [2**38, 4]
    assert header["rank"].tolist() == lora.rank.tolist()
    assert header["scale"].tolist() == lora.scale.tolist()
    assert (header["flags"] & 3).tolist() == [row_format] * 3
    assert (header["flags"] & ~3).tolist() == [4 | 16, 0, 8]
    assert header["gain"].tolist() == [2**40, 0, 8]
    for module, vector in zip((0, 2), vectors, strict=True):
        count = 2 * int(lora.rank[module])
        rows = slice(lora.first_row[module], lora.first_row[module] + count)
        assert vector[: 8 * count].view(np.int64).tolist() == lora.offsets[rows].tolist()
        scales = vector[8 * count : 12 * count].view(np.float32).tolist()
        assert scales == (lora.row_scale[rows].tolist() if row_format is INT8 else [])


def test_what_is_not_at_a_multiple_of_16_bytes_is_refused():
    with pytest.raises(ValueError, match="a row starts at byte 24, not at a multiple of 16"):
        written(lora_table(HALF, offsets=(8, 12, 0, 0, 0, 0)), None, [0, 96, 160])
    with pytest.raises(ValueError, match="a vector starts at byte 104, not at a multiple of 16"):
        written(lora_table(HALF), None, [0, 104, 160])
    gain = GainTable(offsets=np.array([4, 6]), scales_input=np.zeros(2, bool), keeps_bias=False)
    with pytest.raises(ValueError, match="a gain starts at byte 24, not at a multiple of 16"):
        written(None, gain, [0])


def test_a_table_of_nothing_or_of_too_high_a_rank_is_refused():
    with pytest.raises(ValueError, match="without rows and without a gain"):
        write_table(None, None, np.array([0]), np.zeros(0, np.uint8))
    table = lora_table(FLOAT)
    table.rank[0] = 257
    with pytest.raises(ValueError, match="a rank of 257 exceeds 256"):
        written(table, None, [0, 96, 160])


# Bundles.


def test_bundles_cover_each_token_once_and_the_dearest_stand_first():
    runs = [Run(2, 19, 0, 0.5), Run(21, 3, 1), Run(21, 3, 2, -1.0), Run(30, 1, 3)]
    bundles = make_bundles(runs, [160, 320, 480, 640], [4, 8, 16, 5], 8)
    assert bundles.first.tolist() == [21, 30, 2, 10, 18]
    assert bundles.count.tolist() == [3, 1, 8, 8, 3]
    assert bundles.entry.tolist() == [0, 2, 3, 4, 5, 6]
    assert bundles.entry_table.tolist() == [320, 480, 640, 160, 160, 160]
    assert bundles.entry_weight.tolist() == [1, -1, 1, 0.5, 0.5, 0.5]
    assert bundles.entry_row.tolist() == [0, 3, 6, 7, 15, 23]
    assert bundles.rows == 26


def test_a_grid_has_its_lengths_whatever_the_step():
    grid = Grid(bundles=4, entries=5, rows=30)
    for runs in ([], [Run(0, 20, 0)], [Run(0, 1, 0), Run(0, 1, 0)]):
        bundles = make_bundles(runs, [160], [4], 8, grid)
        lengths = [len(bundles.first), len(bundles.count), len(bundles.entry)]
        lengths += [len(bundles.entry_table), len(bundles.entry_weight), len(bundles.entry_row)]
        assert lengths == [4, 4, 5, 5, 5, 5]
        used = int((bundles.count > 0).sum())
        assert not bundles.count[used:].any()
        assert bundles.entry[used:].unique().tolist() == [len(runs) if len(runs) > 1 else used]
        assert bundles.rows == 30


@pytest.mark.parametrize("grid", [Grid(1, 9, 99), Grid(9, 1, 99), Grid(9, 9, 9)])
def test_bundles_that_exceed_the_grid_are_an_error(grid):
    with pytest.raises(ValueError, match="exceeds"):
        make_bundles([Run(0, 10, 0)], [160], [4], 8, grid)
