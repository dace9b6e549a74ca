"""Paged attention against torch's own attention in float64, over a pool that is otherwise NaN."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn import functional

from gossamer.kernels.paged_attention import AttentionBatch, KvLayout, make_paged_attention
from gossamer.kernels.runs import balance

BACKENDS = ("cpu", "reference")
NUM_LAYERS = 2


@dataclass
class Shape:
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = 16
    block_tokens: int = 4
    window: int = 0
    softcap: float = 0.0
    has_sinks: bool = False

    @property
    def sinks(self):
        """A score of each head that nothing is looked up for."""
        return torch.linspace(-2, 3, self.num_heads) if self.has_sinks else None


class Sequences:
    """Sequences with keys and values of their own, in blocks scattered over a poisoned pool."""

    def __init__(self, shape, lengths, seed=0, starts=None):
        """starts: unused places at the beginning of each sequence's first block."""
        self.shape = shape
        self.starts = starts or [0] * len(lengths)
        self.layout = KvLayout(
            num_layers=NUM_LAYERS,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            block_tokens=shape.block_tokens,
            dtype=torch.float32,
        )
        rng = np.random.default_rng(seed)
        per_sequence = [
            -(-(start + length) // shape.block_tokens)
            for start, length in zip(self.starts, lengths, strict=True)
        ]
        num_blocks = sum(per_sequence) + 5
        blocks = rng.permutation(num_blocks).tolist()
        self.blocks = [[blocks.pop() for _ in range(count)] for count in per_sequence]
        floats = num_blocks * self.layout.block_bytes // 4
        self.pool = torch.full((floats,), float("nan")).view(torch.uint8)
        generator = torch.Generator().manual_seed(seed)

        def states(length, heads):
            return torch.randn(NUM_LAYERS, length, heads, shape.head_dim, generator=generator)

        self.query = [states(length, shape.num_heads) for length in lengths]
        self.key = [states(length, shape.num_kv_heads) for length in lengths]
        self.value = [states(length, shape.num_kv_heads) for length in lengths]

    def step(self, parts, backend, *, long_chunk=16, num_workers=2):
        """Compute `parts` (sequence, first position, tokens); results per part and layer."""
        attention = make_paged_attention(self.pool, self.layout, backend)
        batch = self._batch(parts, long_chunk, num_workers)
        results = []
        for layer in range(NUM_LAYERS):
            query, key, value = (
                torch.cat([states[s][layer, low : low + n] for s, low, n in parts])
                for states in (self.query, self.key, self.value)
            )
            scale = self.shape.head_dim**-0.5
            rest = self.shape.window, self.shape.softcap, self.shape.sinks
            out = attention(batch, layer, query, key, value, scale, *rest)
            results.append(out.split([n for _, _, n in parts]))
        return [torch.stack([r[i] for r in results]) for i in range(len(parts))]

    def _batch(self, parts, long_chunk, num_workers):
        bt = self.shape.block_tokens
        positions = np.concatenate(
            [np.arange(low, low + n) + self.starts[s] for s, low, n in parts]
        )
        sequence = np.concatenate([[i] * n for i, (_, _, n) in enumerate(parts)])
        starts = np.cumsum([0, *(n for _, _, n in parts)])
        longest = max(len(self.blocks[s]) for s, _, _ in parts)
        tables = np.zeros((len(parts), longest), dtype=np.int32)
        for row, (s, _, _) in zip(tables, parts, strict=True):
            row[: len(self.blocks[s])] = self.blocks[s]
        short = np.array(
            [
                t
                for i, (_, _, n) in enumerate(parts)
                if n < long_chunk
                for t in starts[i] + range(n)
            ],
            dtype=np.int32,
        )
        order, bounds = balance(positions[short].tolist(), num_workers)
        return AttentionBatch(
            positions=positions.astype(np.int32),
            sequence_start=np.array([self.starts[s] for s, _, _ in parts], dtype=np.int32),
            token_sequence=sequence.astype(np.int32),
            token_block=tables[sequence, positions // bt],
            token_index=(positions % bt).astype(np.int32),
            block_tables=tables,
            short_tokens=short[np.array(order, dtype=np.int64)],
            short_bounds=np.array(bounds, dtype=np.int32),
            long_chunks=tuple(
                (int(starts[i]), n, i) for i, (_, _, n) in enumerate(parts) if n >= long_chunk
            ),
        )

    def expected(self, sequence):
        """Attention of all tokens of a sequence in float64 [layers, tokens, heads, head_dim]."""
        query, key, value = (
            states[sequence].double().transpose(1, 2)
            for states in (self.query, self.key, self.value)
        )
        length = query.shape[2]
        behind = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        mask = behind >= 0
        if self.shape.window:
            mask &= behind < self.shape.window
        if self.shape.softcap or self.shape.has_sinks:
            return self._scored(query, key, value, mask).transpose(1, 2)
        out = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=True
        )
        return out.transpose(1, 2)

    def _scored(self, query, key, value, mask):
        """What transformers computes of Gemma 2 and GPT-OSS: capped scores, and one more column."""
        group = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(group, dim=1) for each in (key, value))
        scores = query @ key.transpose(2, 3) * self.shape.head_dim**-0.5
        if cap := self.shape.softcap:
            scores = cap * torch.tanh(scores / cap)
        scores = scores.masked_fill(~mask, float("-inf"))
        if self.shape.has_sinks:
            sinks = self.shape.sinks.double()[None, :, None, None]
            scores = torch.cat([scores, sinks.expand(*scores.shape[:3], 1)], dim=-1)
        return scores.softmax(-1)[..., : key.shape[2]] @ value


def check(got, sequences, parts):
    for (sequence, low, count), part in zip(parts, got, strict=True):
        want = sequences.expected(sequence)[:, low : low + count]
        assert torch.isfinite(part).all()
        assert (part.double() - want).abs().max() < 2e-5


SHAPES = {
    "grouped": Shape(),
    "multi-head": Shape(num_heads=3, num_kv_heads=3),
    "multi-query": Shape(num_heads=5, num_kv_heads=1),
    "odd-width": Shape(num_heads=4, num_kv_heads=2, head_dim=17, block_tokens=3),
    "tiny-width": Shape(num_heads=2, num_kv_heads=1, head_dim=1, block_tokens=1),
    "wide": Shape(num_heads=2, num_kv_heads=1, head_dim=128, block_tokens=16),
    "window": Shape(window=7),
    "capped": Shape(softcap=0.7),
    "sinks": Shape(has_sinks=True),
    "capped-sinks-and-window": Shape(softcap=1.5, has_sinks=True, window=6, num_kv_heads=3),
    "window-of-one": Shape(window=1, block_tokens=3),
    "window-longer-than-all": Shape(window=1000),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_sequences_that_begin_within_a_block(shape, backend):
    """What lies before them there is not a number, and is not looked at."""
    lengths = (2, 3, 15, 16, 37)
    starts = [min(start, shape.block_tokens - 1) for start in (1, 0, 3, 2, 3)]
    sequences = Sequences(shape, lengths, starts=starts)
    whole = [(i, 0, length - 1) for i, length in enumerate(lengths)]
    check(sequences.step(whole, backend), sequences, whole)
    last = [(i, length - 1, 1) for i, length in enumerate(lengths)]
    check(sequences.step(last, backend), sequences, last)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_prompts_in_one_piece(shape, backend):
    lengths = (1, 3, 15, 16, 37)
    sequences = Sequences(shape, lengths)
    parts = [(i, 0, length) for i, length in enumerate(lengths)]
    check(sequences.step(parts, backend), sequences, parts)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_chunks_and_decodes_side_by_side(shape, backend):
    """Each sequence comes in pieces of its own sizes, all mixed, until all are done."""
    rng = random.Random(1)
    lengths = (5, 23, 40, 61)
    sequences = Sequences(shape, lengths, seed=1)
    done = [0] * len(lengths)
    while any(d < length for d, length in zip(done, lengths, strict=True)):
        parts = []
        for i, length in enumerate(lengths):
            count = min(rng.choice((0, 1, 1, 2, 15, 16, 20)), length - done[i])
            if count:
                parts.append((i, done[i], count))
                done[i] += count
        rng.shuffle(parts)
        if parts:
            check(sequences.step(parts, backend), sequences, parts)


@pytest.mark.parametrize("border", [3, 4, 5, 8, 12])
def test_chunks_that_end_at_before_and_after_a_blocks_border(border):
    sequences = Sequences(Shape(), (30,), seed=2)
    for parts in ([(0, 0, border)], [(0, border, 30 - border)]):
        check(sequences.step(parts, "cpu", long_chunk=9), sequences, parts)


def test_short_and_long_ways_agree():
    lengths = (20, 33)
    parts = [(0, 0, 20), (1, 0, 33)]
    short = Sequences(Shape(), lengths, seed=3)
    long = Sequences(Shape(), lengths, seed=3)
    for a, b in zip(
        short.step(parts, "cpu", long_chunk=1000),
        long.step(parts, "cpu", long_chunk=1),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_decodes_result_is_the_same_whatever_its_neighbours():
    """Bit for bit: alone, among others, and for any number of workers."""
    lengths = (50, 9, 28, 70)

    def prepared():
        sequences = Sequences(Shape(), lengths, seed=4)
        sequences.step([(i, 0, length - 1) for i, length in enumerate(lengths)], "cpu")
        return sequences

    parts = [(i, length - 1, 1) for i, length in enumerate(lengths)]
    mixed = prepared().step(parts, "cpu", num_workers=1)
    for i, part in enumerate(parts):
        assert torch.equal(prepared().step([part], "cpu")[0], mixed[i])
    for workers in (2, 3, 9):
        for a, b in zip(prepared().step(parts, "cpu", num_workers=workers), mixed, strict=True):
            assert torch.equal(a, b)
    backwards = prepared().step(parts[::-1], "cpu")
    for a, b in zip(backwards[::-1], mixed, strict=True):
        assert torch.equal(a, b)


def test_only_the_tokens_own_places_are_written():
    sequences = Sequences(Shape(), (6,), seed=5)
    sequences.step([(0, 0, 6)], "cpu")
    view = sequences.layout.view(sequences.pool)
    written = ~view.isnan()
    assert written.sum() == NUM_LAYERS * 2 * 6 * 2 * 16
    for position in range(6):
        block = sequences.blocks[0][position // 4]
        for layer in range(NUM_LAYERS):
            assert torch.equal(
                view[block, layer, 0, :, position % 4], sequences.key[0][layer, position]
            )
            assert torch.equal(
                view[block, layer, 1, :, position % 4], sequences.value[0][layer, position]
            )


def test_scores_far_apart_neither_overflow_nor_vanish():
    sequences = Sequences(Shape(), (24,), seed=6)
    sequences.query[0] *= 200
    for long_chunk in (1, 1000):
        got = sequences.step([(0, 0, 24)], "cpu", long_chunk=long_chunk)
        want = sequences.expected(0)
        assert (got[0].double() - want).abs().max() < 1e-3


def test_equal_scores_average_the_values():
    sequences = Sequences(Shape(), (13,), seed=7)
    sequences.query[0].zero_()
    (got,) = sequences.step([(0, 0, 13)], "cpu")
    mean = sequences.value[0].mean(dim=1).repeat_interleave(3, dim=1)
    assert torch.allclose(got[:, -1], mean, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_with_heads_of_their_own(backend):
    """As where all layers have as many, and what other layers have is not touched."""
    sequences = Sequences(Shape(), (5, 23))
    parts = [(0, 0, 5), (1, 0, 23)]
    layout = KvLayout(
        num_layers=3, num_kv_heads=3, layer_kv_heads=(1, 2, 3), head_dim=16, block_tokens=4,
        dtype=torch.float32,
    )  # fmt: skip
    count = sequences.pool.numel() // sequences.layout.block_bytes
    pool = torch.full((count * layout.block_bytes // 4,), float("nan")).view(torch.uint8)
    sequences.pool, alike = pool, sequences.layout
    batch = sequences._batch(parts, 16, 2)
    attention = make_paged_attention(pool, layout, backend)
    query, key, value = (
        torch.cat([states[s][1] for s, _, _ in parts])
        for states in (sequences.query, sequences.key, sequences.value)
    )
    out = attention(batch, 1, query, key, value, 0.25)
    want = torch.cat([sequences.expected(s)[1] for s, _, _ in parts])
    assert (out.double() - want).abs().max() < 2e-5
    written = layout.layer_view(pool, 1).isfinite()
    assert written.sum() == 2 * 2 * 16 * 28
    assert all(layout.layer_view(pool, layer).isnan().all() for layer in (0, 2))
    assert layout.block_bytes == 2 * (1 + 2 + 3) * 4 * 16 * 4
    assert not alike.varies
    with pytest.raises(ValueError, match="no one shape"):
        layout.shape  # noqa: B018
