"""Runs cut into chunks: every token once for each run, runs over the same tokens together."""

import random

import pytest

from gossamer.kernels.runs import Run, cut


@pytest.mark.parametrize("seed", range(5))
def test_every_token_of_every_run_is_in_one_chunk(seed):
    rng = random.Random(seed)
    runs, first = [], 0
    for slot in range(12):
        size = rng.choice((1, 1, 7, 8, 9, 40))
        for other in range(rng.choice((1, 1, 3))):
            runs.append(Run(first, size, slot + 100 * other, 0.5 + other))
        first += size + rng.choice((0, 2))
    workers = rng.choice((1, 2, 5))
    chunks = cut(runs, 8, workers, lambda slot, count: slot * count)
    found = sorted(
        (int(low) + i, int(slot), float(weight))
        for low, count, slot, weight in zip(
            chunks.first, chunks.count, chunks.slot, chunks.weight, strict=True
        )
        for i in range(count)
    )
    assert found == sorted((r.first + i, r.slot, r.weight) for r in runs for i in range(r.size))
    assert chunks.count.max() <= 8
    assert len(chunks.bounds) == workers + 1
    assert chunks.bounds[0] == 0
    assert chunks.bounds[-1] == len(chunks)


def test_runs_over_the_same_tokens_stay_with_one_worker_in_their_order():
    runs = [Run(0, 20, 3, 0.7), Run(0, 20, 1, 0.3), Run(20, 5, 2)]
    chunks = cut(runs, 8, 4, lambda slot, count: count)
    for worker in range(4):
        mine = slice(chunks.bounds[worker], chunks.bounds[worker + 1])
        pairs = list(zip(chunks.first[mine].tolist(), chunks.slot[mine].tolist(), strict=True))
        for first in {first for first, _ in pairs if first < 20}:
            assert [slot for low, slot in pairs if low == first] == [3, 1]


def test_no_runs_no_chunks():
    chunks = cut([], 8, 3, lambda slot, count: 1)
    assert len(chunks) == 0
    assert chunks.bounds.tolist() == [0, 0, 0, 0]
