"""Steps lowered for a GPU: what the arrays say, and what never differs between steps of one key."""

import random
from pathlib import Path

import numpy as np
import torch

from gossamer.serving.core.adapter import AdapterEntry, Blend
from gossamer.serving.core.messages import Request
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.device.cpu import CpuDevice
from gossamer.serving.packing.resident import DeviceTables, Resident
from gossamer.serving.runner.batch import BatchBuilder
from gossamer.serving.runner.lowering.programs import ProgramLowering
from gossamer.serving.scheduler.step import ScheduledChunk

BLOCK_TOKENS = 4


def builder():
    lowering = ProgramLowering(CpuDevice("triton"), block_tokens=BLOCK_TOKENS)
    return BatchBuilder(block_tokens=BLOCK_TOKENS, lowering=lowering)


def entry(**tables):
    made = AdapterEntry(name="a", path=Path(), signature=())
    made.start_reading()
    made.finish_reading(object())
    made.start_placing([])
    made.finish_placing(Resident(tables=DeviceTables(**tables)), 0.0)
    return made


def chunk(adapter=None, *, computed=0, count=1, total=None, first_block=0):
    """`count` tokens of a sequence from `computed` on; it has `total` (just these) tokens."""
    total = computed + count if total is None else total
    made = Sequence(
        request=Request(request_id="r", prompt_token_ids=tuple(range(total))),
        adapter=adapter,
        max_new_tokens=8,
        token_ids=[100 + n for n in range(total)],
        blocks=list(range(first_block, first_block + -(-total // BLOCK_TOKENS))),
    )
    made.num_computed = computed
    return ScheduledChunk(made, count)


def storages(batch):
    """Where all arrays of a batch begin."""
    tensors = [batch.token_ids, batch.positions, batch.logit_rows]
    parts = [batch.attention]
    if batch.adapters is not None:
        parts += [batch.adapters.lora, batch.adapters.sparse]
    for part in parts:
        if part is not None:
            names = part.__dataclass_fields__
            tensors += [value for name in names if torch.is_tensor(value := getattr(part, name))]
    return [(each.data_ptr(), each.shape, each.stride(), each.dtype) for each in tensors]


def whole_numbers(batch):
    """The numbers that a launch freezes."""
    lora = batch.adapters.lora if batch.adapters is not None else None
    return None if lora is None else (lora.tokens, lora.rows)


def met(bundles, num_tokens):
    """(table, weight) that each token meets, in order, and the rows of scratch that are used."""
    tokens = [[] for _ in range(num_tokens)]
    rows = []
    for n, (first, count) in enumerate(zip(bundles.first, bundles.count, strict=True)):
        low, high = bundles.entry[n : n + 2].tolist()
        for e in range(low, high):
            for token in range(int(first), int(first + count)):
                tokens[token].append((int(bundles.entry_table[e]), float(bundles.entry_weight[e])))
                rows.append(int(bundles.entry_row[e]) + token - int(first))
    return tokens, rows


def test_a_step_that_decodes_is_padded_with_what_does_nothing():
    made = builder().build([chunk(computed=5 + n, first_block=10 * n) for n in range(3)])
    assert made.key is not None
    assert made.token_ids.tolist() == [[105, 106, 107, 0]]
    assert made.positions.tolist() == [[5, 6, 7, 0]]
    attention = made.attention
    assert attention.token_block.tolist() == [1, 11, 21, -1]
    assert attention.token_index.tolist() == [1, 2, 3, 0]
    assert attention.decode_token.tolist() == [0, 1, 2, -1]
    assert attention.split_token.tolist() == [0, 1, 2, -1]
    assert attention.block_tables[:, :2].tolist() == [[0, 1], [10, 11], [20, 21], [0, 0]]
    assert not attention.block_tables[:, 2:].any()
    assert len(attention.chunk_first) == 0
    assert made.logit_rows.tolist() == [0, 1, 2, 0]
    assert len(made.sampled) == 3
    assert made.adapters is None


def test_steps_of_one_key_find_other_numbers_at_the_same_places():
    build = builder().build
    one, two = entry(lora=64, cost=4.0), entry(lora=4096, cost=8.0)
    first = build([chunk(one, computed=5), chunk(two, computed=2), chunk(computed=6)])
    places, numbers = storages(first), whole_numbers(first)
    tables = met(first.adapters.lora, 4)[0]
    again = build([chunk(two, computed=7, first_block=9)] * 2 + [chunk(one, computed=1)] * 2)
    assert again.key == first.key
    assert (storages(again), whole_numbers(again)) == (places, numbers)
    assert met(again.adapters.lora, 4)[0] != tables
    assert again.positions.tolist() == [[7, 7, 1, 1]]
    # The first batch has the new numbers: a graph that reads its arrays computes the new step.
    assert first.positions.tolist() == [[7, 7, 1, 1]]


def test_other_kernels_have_other_keys():
    build = builder().build
    lora, sparse = entry(lora=0), entry(sparse=32)
    scaling = entry(lora=0, scaled_inputs=frozenset({3}))
    keys = [
        build([chunk(adapter, computed=5)]).key
        for adapter in (None, lora, sparse, scaling, entry(lora=0, sparse=64))
    ]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    # Which inputs are scaled is read from the table.
    other = entry(lora=0, scaled_inputs=frozenset({7, 8}))
    assert build([chunk(other, computed=5)]).key == keys[3]


def test_sequences_of_other_lengths_have_few_keys():
    build = builder().build
    keys = [build([chunk(computed=computed)]).key for computed in range(0, 4096, 5)]
    # 16 blocks of 4 tokens, four times as many, and so on; from 256 tokens on, more splits too.
    assert len(set(keys)) == 6
    assert build([chunk(computed=63)]).key == build([chunk(computed=0)]).key
    assert build([chunk(computed=64)]).key != build([chunk(computed=0)]).key


def test_what_does_not_only_decode_is_like_no_other_step():
    build = builder().build
    lora = entry(lora=0)
    assert build([chunk(lora, computed=5), chunk(count=3)]).key is None
    assert build([chunk(computed=5, total=9)]).key is None
    many = Blend((lora, entry(lora=32), entry(lora=64)), (0.5, 0.25, 0.25))
    assert build([chunk(many, computed=5)]).key is None
    assert build([chunk(many, computed=5), chunk(computed=5)]).key is not None


def test_inputs_are_scaled_by_the_adapters_that_do_so():
    scaling, other = entry(lora=32, scaled_inputs=frozenset({3, 8})), entry(lora=96)
    step = [chunk(other, count=2), chunk(scaling, count=3), chunk()]
    made = builder().build(step).adapters
    # Tokens without an adapter come first.
    assert made.token_table.tolist() == [-1, -1, -1, 32, 32, 32]


def test_random_steps_say_what_every_token_meets():
    rng = random.Random(0)
    adapters = [entry(lora=64 * n, cost=float(rng.randint(1, 9))) for n in range(12)]
    adapters += [entry(sparse=64 * n + 32, cost=1.0) for n in range(6)]
    adapters += [entry(lora=64 * n + 2048, sparse=64 * n + 4096) for n in range(3)]
    adapters += [None] * 3
    build = builder().build
    for _ in range(300):
        step = []
        for _ in range(rng.randint(1, 9)):
            adapter = rng.choice(adapters)
            if rng.random() < 0.2:
                parts = tuple(rng.sample([each for each in adapters if each], rng.randint(2, 4)))
                adapter = Blend(parts, tuple(rng.choice((0.5, -1.0, 2.0)) for _ in parts))
            size = rng.choice((1, 1, 1, 2, 7, 70))
            step.append(chunk(adapter, count=size, computed=rng.randint(0, 9)))
        host = builder().describe(step)
        made = build(step)
        for field in ("lora", "sparse"):
            want = []
            for part in host.chunks:
                uses = part.sequence.adapter.uses if part.sequence.adapter else ()
                places = [(getattr(each.table.tables, field), weight) for each, weight in uses]
                want += [[use for use in places if use[0] >= 0]] * part.count
            bundles = getattr(made.adapters, field, None)
            if bundles is None:
                assert not any(want)
                continue
            tokens, rows = met(bundles, max(len(want), len(made.token_ids[0])))
            assert tokens[: len(want)] == want
            assert not any(tokens[len(want) :])
            assert len(rows) == len(set(rows))
            assert max(rows) < bundles.rows


def test_arrays_begin_at_multiples_of_16_bytes():
    made = builder().build([chunk(entry(lora=0), count=3), chunk(count=5)])
    assert all(place % 16 == 0 for place, *_ in storages(made))
    assert np.prod(made.attention.block_tables.shape) == 4
