"""Paged attention's GPU kernels, interpreted, against the plain formula in float64.

Whatever is not part of a sequence is not a number: the rest of the pool, and the scratch that
splits leave for the merge.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from gossamer.kernels.attention_work import QUERIES, SPLIT_TOKENS, arrays_of
from gossamer.kernels.paged_attention import AttentionBatch, KvLayout, reference
from gossamer.kernels.paged_attention.triton_launches import TritonPagedAttention

BOUNDS = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
NUM_LAYERS, LAYER = 2, 1


@dataclass(frozen=True)
class Shape:
    num_heads: int = 4
    num_kv_heads: int = 1
    head_dim: int = 16
    block_tokens: int = 16
    window: int = 0
    softcap: float = 0.0
    has_sinks: bool = False
    dtype: torch.dtype = torch.float32


class Step:
    """One step over sequences whose earlier keys and values lie in a pool that is else NaN.

    parts: (first position, tokens) of each sequence; starts: unused places before it.
    """

    def __init__(self, shape, parts, starts=None, long_chunk=16, seed=0):
        self.shape, self.parts = shape, parts
        starts = starts or [0] * len(parts)
        self.layout = KvLayout(
            num_layers=NUM_LAYERS, num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim,
            block_tokens=shape.block_tokens, dtype=shape.dtype,
        )  # fmt: skip
        self.generator = torch.Generator().manual_seed(seed)
        counts = [count for _, count in parts]
        places = [
            start + low + np.arange(count)
            for start, (low, count) in zip(starts, parts, strict=True)
        ]
        needed = [-(-(int(place[-1]) + 1) // shape.block_tokens) for place in places]
        order = np.random.default_rng(seed).permutation(sum(needed) + 3)
        tables = np.full((len(parts), max(needed) + 1), 2**30, dtype=np.int32)
        for row, blocks in zip(tables, np.split(order, np.cumsum(needed)), strict=False):
            row[: len(blocks)] = blocks
        positions = np.concatenate(places).astype(np.int32)
        sequence = np.repeat(np.arange(len(parts)), counts).astype(np.int32)
        first = np.cumsum([0, *counts])
        is_long = np.array([count >= long_chunk for count in counts])
        self.batch = AttentionBatch(
            positions=positions,
            sequence_start=np.array(starts, dtype=np.int32),
            token_sequence=sequence,
            token_block=tables[sequence, positions // shape.block_tokens],
            token_index=positions % shape.block_tokens,
            block_tables=tables,
            short_tokens=np.flatnonzero(~is_long[sequence]).astype(np.int32)[::-1].copy(),
            short_bounds=np.zeros(1, dtype=np.int32),
            long_chunks=tuple(
                (int(first[i]), counts[i], i) for i in range(len(parts)) if is_long[i]
            ),
        )
        nan = torch.full((len(order), *self.layout.shape), float("nan"), dtype=shape.dtype)
        self.pool = nan.view(torch.uint8).view(-1)
        for i, (low, _) in enumerate(parts):
            for place in range(starts[i], starts[i] + low):
                block, index = divmod(place, shape.block_tokens)
                nan[tables[i, block], LAYER, :, :, index] = self._random(
                    2, shape.num_kv_heads, shape.head_dim
                )
        # As an attention layer holds them: views of one product, side by side.
        heads = shape.num_heads + 2 * shape.num_kv_heads
        rows = self._random(len(positions), heads * shape.head_dim + 8)
        qkv = rows[:, : heads * shape.head_dim].unflatten(1, (heads, -1))
        self.states = qkv.split([shape.num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=1)
        self.sinks = 2 * self._random(shape.num_heads) if shape.has_sinks else None

    def _random(self, *shape):
        return torch.randn(*shape, generator=self.generator).to(self.shape.dtype)

    @property
    def scale(self):
        return self.shape.head_dim**-0.5

    def expected(self):
        """The result in float64 of the keys and values as they are stored."""
        pool, (query, key, value), shape = self.pool.clone(), self.states, self.shape
        sinks = None if self.sinks is None else self.sinks.double()
        reference.write_kv(self.layout, pool, self.batch, LAYER, key, value)
        return pool, reference.attend(
            self.layout, pool, self.batch, LAYER, query.double(), self.scale, shape.window,
            shape.softcap, sinks,
        )  # fmt: skip

    def computed(self, batch=None):
        """The pool and the result after one call of the kernels."""
        # What lies before the pool's first block shows a write to a block of number -1.
        guard = self.layout.block_bytes
        memory = torch.cat([torch.zeros(guard, dtype=torch.uint8), self.pool])
        pool = memory[guard:]
        attention = TritonPagedAttention(pool, self.layout)
        for scratch in attention.scratch:
            scratch.take(2**20).fill_(float("nan"))
        shape = self.shape
        out = attention(
            batch or self.batch, LAYER, *self.states, self.scale, shape.window, shape.softcap,
            self.sinks,
        )  # fmt: skip
        assert not memory[:guard].any()
        return pool, out


def error(got, want):
    return float((got.double() - want).norm() / want.norm())


def check(step):
    (want_pool, want), (got_pool, got) = step.expected(), step.computed()
    assert torch.equal(got_pool, want_pool)
    assert got.dtype == step.shape.dtype
    assert torch.isfinite(got).all()
    assert error(got, want) < BOUNDS[step.shape.dtype]


MIXED = [(40, 1), (0, 20), (9, 3), (0, 1), (30, 17)]
SHAPES = {
    "one-head": Shape(num_heads=1, num_kv_heads=1),
    "group-of-3": Shape(num_heads=6, num_kv_heads=2, head_dim=64, block_tokens=5),
    "group-of-4": Shape(num_heads=4, num_kv_heads=1, head_dim=128),
    "width-80": Shape(num_heads=3, num_kv_heads=3, head_dim=80, block_tokens=5),
    "window": Shape(num_heads=3, num_kv_heads=1, window=7, block_tokens=5),
    "window-of-one": Shape(num_heads=2, num_kv_heads=1, window=1),
    "window-longer-than-all": Shape(num_heads=2, num_kv_heads=1, window=1000),
    "capped": Shape(num_heads=3, num_kv_heads=1, softcap=0.7, block_tokens=5),
    "sinks": Shape(num_heads=6, num_kv_heads=2, has_sinks=True),
    "all": Shape(num_heads=4, num_kv_heads=2, window=9, softcap=2.0, has_sinks=True),
    "bfloat-sinks": Shape(num_heads=4, num_kv_heads=1, has_sinks=True, dtype=torch.bfloat16),
    "half": Shape(num_heads=4, num_kv_heads=1, head_dim=64, dtype=torch.float16),
    "bfloat": Shape(num_heads=4, num_kv_heads=1, head_dim=64, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_decodes_and_chunks_in_one_step(shape):
    check(Step(shape, MIXED))


@pytest.mark.parametrize("window", [0, 9])
def test_sequences_that_begin_within_a_block(window):
    shape = Shape(num_heads=3, num_kv_heads=1, block_tokens=5, window=window)
    check(Step(shape, MIXED, starts=[3, 4, 0, 2, 1]))


@pytest.mark.parametrize("length", [63, 64, SPLIT_TOKENS - 1, SPLIT_TOKENS, 2 * SPLIT_TOKENS + 70])
def test_a_long_sequence_is_merged_from_its_splits(length):
    check(Step(Shape(num_heads=2, num_kv_heads=1), [(length, 1)]))


def test_a_sink_counts_once_however_many_splits_there_are():
    shape = Shape(num_heads=2, num_kv_heads=1, softcap=3.0, has_sinks=True)
    check(Step(shape, [(2 * SPLIT_TOKENS + 70, 1), (2, 1), (0, QUERIES + 9)]))


@pytest.mark.parametrize("sink", [-60.0, 60.0])
def test_a_sink_may_take_nothing_or_all(sink):
    step = Step(Shape(num_heads=2, num_kv_heads=1, has_sinks=True), [(40, 1), (0, 20)])
    step.sinks.fill_(sink)
    _, got = step.computed()
    want = step.expected()[1]
    assert torch.isfinite(got).all()
    assert (got.double() - want).abs().max() < 1e-6
    assert (want.abs().max() < 1e-20) == (sink > 0)


def test_more_splits_than_a_merge_reads_at_once(monkeypatch):
    monkeypatch.setattr("gossamer.kernels.paged_attention.triton_kernels.MERGED", 2)
    check(Step(Shape(num_heads=1, num_kv_heads=1), [(4 * SPLIT_TOKENS + 3, 1), (2, 1)]))


@pytest.mark.parametrize("window", [3, SPLIT_TOKENS, SPLIT_TOKENS + 100])
def test_splits_before_the_window_are_not_merged(window):
    shape = Shape(num_heads=2, num_kv_heads=1, window=window)
    check(Step(shape, [(2 * SPLIT_TOKENS + 5, 1), (4, 1)], starts=[3, 0]))


@pytest.mark.parametrize("count", [QUERIES - 1, QUERIES, 2 * QUERIES + 3])
def test_chunks_longer_than_a_program_computes(count):
    check(Step(Shape(num_heads=2, num_kv_heads=1), [(70, count), (0, 16)]))


def test_a_window_that_a_chunk_crosses():
    check(Step(Shape(num_heads=1, num_kv_heads=1, window=40), [(150, QUERIES + 20)]))


def test_unused_pieces_of_work_change_nothing():
    step = Step(Shape(num_heads=2, num_kv_heads=1), MIXED)
    padded = arrays_of(step.batch, step.pool.device, decodes=9, splits=11, chunks=5)
    (pool, plain), (padded_pool, got) = step.computed(), step.computed(padded)
    assert torch.equal(got, plain)
    assert torch.equal(padded_pool, pool)
    assert len(padded.split_token) == 11


def test_a_token_without_a_block_is_not_stored():
    step = Step(Shape(num_heads=2, num_kv_heads=1), [(5, 1), (6, 1)])
    arrays = arrays_of(step.batch, step.pool.device)
    arrays.token_block[1] = -1
    arrays.decode_token[arrays.decode_token == 1] = -1
    arrays.split_token[arrays.split_token == 1] = -1
    pool, got = step.computed(arrays)
    alone = Step(Shape(num_heads=2, num_kv_heads=1), [(5, 1), (6, 1)])
    assert torch.equal(got[0], alone.computed()[1][0])
    changed = pool.view(torch.int32) != step.pool.view(torch.int32)
    assert int(changed.sum()) == 2 * step.shape.head_dim


@pytest.fixture
def products_by_row(monkeypatch):
    """Let a row of an interpreted product be the same wherever in the tile it stands.

    The interpreter multiplies by NumPy's BLAS, whose rounding depends on a row's place on some
    processors. Sums in float64 are rounded to the same float32.
    """

    def dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        product = np.matmul(a.data, b.data, dtype=np.float64) + d.data
        return TensorHandle(product.astype(d.data.dtype), d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)


@pytest.mark.parametrize("window", [0, 37])
def test_a_result_does_not_depend_on_company(window, products_by_row):
    """Bit for bit: alone, in a step of others, and for a chunk cut elsewhere."""
    shape = Shape(num_heads=2, num_kv_heads=1, window=window)
    mixed = Step(shape, [(300, 1), (20, 90)])
    _, together = mixed.computed()
    for which in ([0], [1]):
        rows = np.isin(mixed.batch.token_sequence, which)
        tokens = np.flatnonzero(rows)
        batch = AttentionBatch(
            positions=mixed.batch.positions[rows],
            sequence_start=mixed.batch.sequence_start[which],
            token_sequence=np.zeros(len(tokens), dtype=np.int32),
            token_block=mixed.batch.token_block[rows],
            token_index=mixed.batch.token_index[rows],
            block_tables=mixed.batch.block_tables[which],
            short_tokens=np.zeros(1 if which == [0] else 0, dtype=np.int32),
            short_bounds=np.zeros(1, dtype=np.int32),
            # The second sequence is cut after 50 tokens, not after QUERIES.
            long_chunks=((0, 50, 0), (50, 40, 0)) if which == [1] else (),
        )
        attention = TritonPagedAttention(mixed.pool.clone(), mixed.layout)
        states = [part[tokens] for part in mixed.states]
        got = attention(batch, LAYER, *states, mixed.scale, window)
        assert torch.equal(got, together[tokens])


def test_rows_whose_elements_are_apart():
    step = Step(Shape(num_heads=2, num_kv_heads=1), [(3, 1)])
    step.states = [part.repeat_interleave(2, dim=2)[:, :, ::2] for part in step.states]
    with pytest.raises(ValueError, match="contiguous within a head"):
        step.computed()


def test_layers_with_heads_of_their_own():
    """As where all layers have as many, and what other layers have is not touched."""
    step = Step(Shape(num_kv_heads=2), [(0, 1), (0, 5), (0, 20)])
    layout = KvLayout(
        num_layers=3, num_kv_heads=3, layer_kv_heads=(1, 2, 3), head_dim=16, block_tokens=16,
        dtype=torch.float32,
    )  # fmt: skip
    count = step.pool.numel() // step.layout.block_bytes
    pool = torch.full((count * layout.block_bytes // 4,), float("nan")).view(torch.uint8)
    out = TritonPagedAttention(pool, layout)(step.batch, LAYER, *step.states, step.scale)
    assert (out.double() - step.expected()[1]).abs().max() < BOUNDS[torch.float32]
    assert layout.layer_view(pool, LAYER).isfinite().sum() == 2 * 2 * 16 * 26
    assert all(layout.layer_view(pool, layer).isnan().all() for layer in (0, 2))
