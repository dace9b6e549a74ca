"""The pool's accounting, and the memory that admission expects sequences to need."""

import random

import pytest

from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.scheduler.admission import blocks_for, peak_blocks


def test_no_block_has_two_owners_whatever_the_order():
    rng = random.Random(0)
    pool = BlockPool(37)
    held: dict[int, list[int]] = {}
    for step in range(3000):
        if held and rng.random() < 0.5:
            owner = rng.choice(list(held))
            blocks = held[owner]
            count = rng.randint(1, len(blocks))
            pool.give([blocks.pop() for _ in range(count)], owner)
            if not blocks:
                del held[owner]
        else:
            count = rng.randint(1, 9)
            if pool.can_take(count):
                held[step] = pool.take(count, step)
                assert len(set(held[step])) == count
        pool.audit()
        assert pool.num_free == 37 - sum(map(len, held.values()))
    taken = [block for blocks in held.values() for block in blocks]
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(range(37))
    for owner, blocks in held.items():
        assert pool.num_owned(owner) == len(blocks)


def test_all_blocks_can_be_taken_and_no_more():
    pool = BlockPool(4)
    blocks = pool.take(4, "all")
    assert sorted(blocks) == [0, 1, 2, 3]
    assert not pool.can_take(1)
    assert pool.can_take(0)
    with pytest.raises(AssertionError, match="1 blocks asked for, 0 free"):
        pool.take(1, "more")
    pool.give(blocks, "all")
    assert pool.num_free == 4


def test_giving_back_what_is_not_owned_is_noticed():
    pool = BlockPool(4)
    blocks = pool.take(2, "a")
    with pytest.raises(AssertionError, match="is not b's"):
        pool.give(blocks, "b")
    pool.give(blocks, "a")
    with pytest.raises(AssertionError, match="is not a's"):
        pool.give(blocks, "a")


def test_the_audit_finds_lost_and_doubled_blocks():
    pool = BlockPool(3)
    pool.take(1, "a")
    pool._owners.clear()
    with pytest.raises(AssertionError, match="lost"):
        pool.audit()
    pool = BlockPool(3)
    pool._free.append(0)
    with pytest.raises(AssertionError, match="free twice"):
        pool.audit()


@pytest.mark.parametrize(
    ("tokens", "block_tokens", "blocks"), [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2), (7, 1, 7)]
)
def test_blocks_for(tokens, block_tokens, blocks):
    assert blocks_for(tokens, block_tokens) == blocks


def most_blocks_ever(sequences, block_tokens):
    """Play it through: every sequence grows by a token a step and leaves when it is done."""
    most = 0
    for step in range(max(to_come for _, to_come in sequences) + 1):
        still = [(held, to_come) for held, to_come in sequences if to_come >= step]
        most = max(most, sum(blocks_for(held + step, block_tokens) for held, _ in still))
    return most


def test_the_expected_peak_is_never_too_low_and_close():
    rng = random.Random(1)
    for _ in range(300):
        block_tokens = rng.choice((1, 3, 16))
        count = rng.randint(1, 8)
        sequences = [(rng.randint(1, 60), rng.randint(0, 40)) for _ in range(count)]
        real = most_blocks_ever(sequences, block_tokens)
        expected = peak_blocks(sequences, block_tokens)
        assert real <= expected <= real + count, (sequences, block_tokens)


def test_the_expected_peak_is_exact_for_blocks_of_one_token():
    rng = random.Random(2)
    for _ in range(200):
        sequences = [(rng.randint(1, 60), rng.randint(0, 40)) for _ in range(rng.randint(1, 6))]
        assert peak_blocks(sequences, 1) == most_blocks_ever(sequences, 1)


def test_the_expected_peak_of_one_sequence_is_exact():
    for held in range(1, 40):
        assert peak_blocks([(held, 7)], 5) == blocks_for(held + 7, 5)
