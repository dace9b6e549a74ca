"""Grouped LoRA against its formula in float64: any ranks, widths, types, runs and neighbours."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from lora_case import MODULES, NUM_MODULES, WIDTHS, Pool, add, expected, tokens

from gossamer.kernels.grouped_lora import RowFormat, make_batch, make_grouped_lora, stack_tables
from gossamer.kernels.grouped_lora.batch import LONGEST_CHUNK, SHORTEST_CHUNK, chunk_length
from gossamer.kernels.runs import Run, balance

RANKS = (1, 3, 5, 16, 64)
BACKENDS = ("cpu", "reference")
FORMATS = {"reference": tuple(RowFormat)}
"""The formats of rows that each backend reads; those of GPUs are tested with their kernels."""
FORMATS["cpu"] = tuple(each for each in RowFormat if each is not RowFormat.FLOAT16)
MANY = 4 * LONGEST_CHUNK + 1
"""Tokens of a run that is cut into several chunks."""


def check(pool, adapters, runs, num_tokens, backend):
    x, y = tokens(num_tokens)
    got = add(pool, adapters, runs, x, y, backend)
    want = expected(adapters, runs, x, y)
    assert torch.isfinite(got).all()
    # The error of a sum grows with the size of its parts, not of its result.
    size = (want - y.double()).abs().max().clamp(min=1.0)
    assert ((got.double() - want).abs() / size).max() < 1e-5
    untouched = torch.ones(num_tokens, dtype=torch.bool)
    for first, count, *_ in runs:
        untouched[first : first + count] = False
    assert torch.equal(got[untouched], y[untouched])


def all_modules(rank):
    return dict.fromkeys(MODULES, rank)


@pytest.mark.parametrize(
    ("row_format", "backend"),
    [(each, backend) for backend in BACKENDS for each in FORMATS[backend]],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("rank", RANKS)
def test_one_adapter_of_any_rank(rank, row_format, backend):
    pool = Pool(seed=rank)
    adapter = pool.adapter(all_modules(rank), row_format=row_format)
    for count in (1, 2, 7, LONGEST_CHUNK, MANY, MANY + 6):
        check(pool, [adapter], [(0, count, 0)], count, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("popularity", ["distinct", "uniform", "zipf", "identical", "skewed"])
def test_any_popularity_of_mixed_adapters(popularity, backend):
    pool = Pool(seed=3)
    rng = random.Random(3)
    count = 40
    if popularity == "identical":
        picks = [0] * count
    elif popularity == "distinct":
        picks = list(range(count))
    elif popularity == "uniform":
        picks = [rng.randrange(8) for _ in range(count)]
    elif popularity == "zipf":
        picks = rng.choices(range(20), weights=[1 / (i + 1) for i in range(20)], k=count)
    else:
        picks = [0] * (count - 3) + [1, 2, 3]
    adapters = [
        pool.adapter(
            {module: rng.choice((0, *RANKS)) for module in MODULES}, row_format=RowFormat(slot % 3)
        )
        for slot in range(max(picks) + 1)
    ]
    check(pool, adapters, to_runs(sorted(picks)), count, backend)


def to_runs(slots, first=0):
    """Runs of equal neighbours; -1: a token of the base model."""
    runs = []
    for token, slot in enumerate(slots, start=first):
        if slot < 0:
            continue
        if runs and runs[-1][2] == slot and sum(runs[-1][:2]) == token:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, slot)
        else:
            runs.append((token, 1, slot))
    return runs


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(6))
def test_random_batches(seed, backend):
    rng = random.Random(seed)
    pool = Pool(seed=seed, block_elements=rng.choice((44, 64, 200)))
    adapters = []
    for _ in range(rng.randint(1, 10)):
        modules = rng.sample(MODULES, rng.randint(0, 3))
        ranks = {module: rng.choice((*RANKS, 17)) for module in modules}
        row_format, scale = RowFormat(rng.randrange(3)), rng.uniform(-2, 2)
        adapters.append(pool.adapter(ranks, row_format=row_format, scale=scale))
    runs, first = [], rng.randint(0, 4)
    for slot in rng.sample(range(len(adapters)), len(adapters)):
        length = rng.choice((1, 1, 2, 9, 33, MANY))
        runs.append((first, length, slot))
        first += length + rng.choice((0, 0, 3))
    check(pool, adapters, runs, first + 2, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_and_short_runs_in_one_batch(backend):
    pool = Pool(seed=5)
    ranks = [all_modules(64), {0: 3}, {2: 16, 3: 1}, all_modules(8)]
    adapters = [pool.adapter(r, row_format=RowFormat(s % 3)) for s, r in enumerate(ranks)]
    long = MANY + 4
    runs = [(2, long, 0), (2 + long, 1, 1), (3 + long, MANY, 2), (MANY + 6 + long, 2, 3)]
    check(pool, adapters, runs, MANY + 16 + long, backend)


def test_a_small_neighbour_never_sees_a_large_ones_scratch():
    # Rank 64 first, in the same worker, then rank 1: what is left in the scratch is not read.
    pool = Pool(seed=6)
    adapters = [pool.adapter(all_modules(64)), pool.adapter(all_modules(1))]
    x, y = tokens(4)
    alone = add(pool, adapters[1:], [(2, 2, 0)], x, y, num_workers=1)
    mixed = add(pool, adapters, [(0, 2, 0), (2, 2, 1)], x, y, num_workers=1)
    assert torch.equal(mixed[2:], alone[2:])


def test_an_adapter_that_leaves_the_group_alone_changes_nothing():
    pool = Pool(seed=7)
    adapters = [pool.adapter({}), pool.adapter({0: 4})]
    x, y = tokens(MANY + 1)
    for count in (3, MANY):
        got = add(pool, adapters, [(0, count, 0), (count, 1, 1)], x, y)
        assert torch.equal(got[:count], y[:count])


@pytest.mark.parametrize("row_format", RowFormat, ids=lambda row_format: row_format.name)
def test_a_tokens_result_is_the_same_whatever_its_neighbours(row_format):
    """Bit for bit, in decoding as in prefill."""
    pool = Pool(seed=8)
    rng = random.Random(8)
    adapter = pool.adapter({0: 5, 2: 64, 3: 16}, row_format=row_format)
    others = [
        pool.adapter(all_modules(rng.choice(RANKS)), row_format=RowFormat(i % 3)) for i in range(6)
    ]
    num_tokens = MANY + 20
    x, y = tokens(num_tokens)
    alone = torch.cat(
        [add(pool, [adapter], [(0, 1, 0)], x[t : t + 1], y[t : t + 1]) for t in range(num_tokens)]
    )
    for count in (1, 2, 3, 7, SHORTEST_CHUNK, SHORTEST_CHUNK + 1, MANY):
        first = rng.randint(0, num_tokens - count)
        for workers in (1, 2, 5):
            got = add(pool, [adapter], [(first, count, 0)], x, y, num_workers=workers)
            assert torch.equal(got[first : first + count], alone[first : first + count])
    runs = [(0, 9, 1), (9, 5, 0), (15, MANY, 2), (MANY + 15, 3, 3), (MANY + 18, 1, 4)]
    got = add(pool, [adapter, *others], runs, x, y)
    assert torch.equal(got[9:14], alone[9:14])


def test_the_sums_of_ranks_are_charged_not_the_largest_rank():
    """An adapter's rows are all that is read for it: a rank-64 neighbour adds none."""
    pool = Pool(seed=9)
    small, large = pool.adapter(all_modules(2)), pool.adapter(all_modules(64))
    tables = stack_tables([small.table, large.table])
    assert tables.total_rank[:2].tolist() == [3 * 2, 3 * 64]
    assert tables.rank[0].sum() == 3 * 2
    assert tables.first_row[1, MODULES[0]] == len(small.table.offsets)


def test_columns_outside_the_group_and_strided_views_are_respected():
    pool = Pool(seed=10)
    adapter = pool.adapter(all_modules(5))
    num_tokens = MANY + 14
    x, y = tokens(num_tokens)
    # A group that lacks the middle module.
    group = make_grouped_lora(pool.memory, [MODULES[0], MODULES[2]], [WIDTHS[0], WIDTHS[2]], "cpu")
    wide = torch.zeros(num_tokens, WIDTHS[0] + WIDTHS[2])
    runs = [Run(0, 4, 0), Run(4, num_tokens - 4, 0)]
    batch = make_batch(stack_tables([adapter.table]), runs, 2)
    group.add_(wide, x, batch)
    want = expected([adapter], [(0, num_tokens, 0)], x, torch.zeros_like(y))
    want = torch.cat([want[:, : WIDTHS[0]], want[:, -WIDTHS[2] :]], dim=1)
    assert torch.allclose(wide.double(), want, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_weighted_adapters_for_the_same_tokens(backend):
    pool = Pool(seed=12)
    adapters = [
        pool.adapter(all_modules(rank), row_format=row_format)
        for rank, row_format in zip((5, 8, 16), FORMATS["cpu"], strict=True)
    ]
    both = MANY + 10
    runs = [
        *((0, 3, 0, 0.7), (0, 3, 1, -0.3), (0, 3, 2, 1.0), (3, 20, 1, 2.0)),
        *((23, 9, 2, 0.25), (23, 9, 0, 0.75), (40, both, 1, 0.5), (40, both, 0, 0.5)),
    ]
    check(pool, adapters, runs, 42 + both, backend)


# How work is divided.


@pytest.mark.parametrize("num_workers", [1, 3, 16])
def test_every_token_is_in_one_chunk(num_workers):
    pool = Pool(seed=11)
    tables = stack_tables([pool.adapter(all_modules(2)).table for _ in range(6)])
    assert tables.rank.shape[1] == NUM_MODULES
    sizes = (1, SHORTEST_CHUNK, SHORTEST_CHUNK + 1, MANY, MANY + 5)
    runs, first = [], 0
    for slot, size in enumerate(sizes):
        runs.append(Run(first, size, slot))
        first += size + 3
    batch = make_batch(tables, runs, num_workers)
    covered = sorted(
        (token, slot)
        for low, count, slot in zip(
            batch.chunks.first, batch.chunks.count, batch.chunks.slot, strict=True
        )
        for token in range(low, low + count)
    )
    assert covered == [(run.first + t, run.slot) for run in runs for t in range(run.size)]
    assert batch.chunks.count.max() <= chunk_length(sum(sizes), num_workers)
    assert batch.chunks.bounds[0] == 0
    assert batch.chunks.bounds[-1] == len(batch.chunks)
    assert len(batch.chunks.bounds) == num_workers + 1


def test_chunks_are_short_while_there_are_few_tokens_for_each_worker():
    assert chunk_length(32, 2) == chunk_length(500, 16) == SHORTEST_CHUNK
    assert chunk_length(200, 2) == 12
    assert chunk_length(2048, 2) == LONGEST_CHUNK


@pytest.mark.parametrize("seed", range(20))
def test_balance_gives_each_item_to_one_group_and_none_too_much(seed):
    rng = random.Random(seed)
    costs = [rng.choice((1, 3, 50, 200)) for _ in range(rng.randint(0, 40))]
    num_groups = rng.randint(1, 6)
    order, bounds = balance(costs, num_groups)
    assert sorted(order) == list(range(len(costs)))
    assert bounds[0] == 0
    assert bounds[-1] == len(costs)
    assert len(bounds) == num_groups + 1
    assert bounds == sorted(bounds)
    loads = [sum(costs[i] for i in order[low:high]) for low, high in pairwise(bounds)]
    # Graham's bound for the greedy rule.
    least = max(sum(costs) / num_groups, max(costs, default=0))
    assert max(loads) <= least + max(costs, default=0)


def test_more_workers_than_chunks():
    pool = Pool(seed=12)
    adapters = [pool.adapter(all_modules(3))]
    x, y = tokens(2)
    got = add(pool, adapters, [(0, 2, 0)], x, y, num_workers=16)
    assert np.allclose(got.numpy(), expected(adapters, [(0, 2, 0)], x, y).numpy(), atol=1e-4)
