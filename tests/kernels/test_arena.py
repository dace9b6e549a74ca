"""Tables that lie side by side: each is found whole in its slot, whoever came and went before."""

from dataclasses import dataclass

import numpy as np
import pytest

from gossamer.kernels.arena import TableArena

MODULES = 3


@dataclass(frozen=True, kw_only=True)
class Table:
    first: np.ndarray
    rank: np.ndarray
    offsets: np.ndarray
    scales: np.ndarray
    half: bool


@dataclass(frozen=True, kw_only=True)
class Tables:
    first: np.ndarray
    rank: np.ndarray
    offsets: np.ndarray
    scales: np.ndarray
    half: np.ndarray
    total: np.ndarray


def make_arena():
    return TableArena(
        Tables,
        modules=("first", "rank"),
        numbers={"half": lambda t: np.bool_(t.half), "total": lambda t: t.rank.sum(dtype=np.int64)},
        rows=("offsets", "scales"),
        pointer="first",
    )


def make_table(rng, most=6):
    rank = rng.integers(0, most, MODULES).astype(np.int32)
    return Table(
        first=(np.cumsum(rank) - rank).astype(np.int64),
        rank=rank,
        offsets=rng.integers(0, 10**9, rank.sum()),
        scales=rng.random(rank.sum(), dtype=np.float32),
        half=bool(rng.integers(2)),
    )


def assert_lies_in(tables, slot, table):
    assert np.array_equal(tables.rank[slot], table.rank)
    assert tables.half[slot] == table.half
    assert tables.total[slot] == table.rank.sum()
    for module in range(MODULES):
        first, own = tables.first[slot, module], table.first[module]
        rank = table.rank[module]
        for name in ("offsets", "scales"):
            found = getattr(tables, name)[first : first + rank]
            assert np.array_equal(found, getattr(table, name)[own : own + rank])


@pytest.mark.parametrize("seed", range(8))
def test_every_table_of_a_step_is_found_whole_whoever_came_before(seed):
    rng = np.random.default_rng(seed)
    arena = make_arena()
    known = [make_table(rng, most=rng.integers(1, 12)) for _ in range(30)]
    for _ in range(300):
        wanted = [known[i] for i in rng.choice(len(known), rng.integers(1, 9))]
        if rng.random() < 0.1:
            known[rng.integers(len(known))] = make_table(rng, most=20)
        slots = arena.slots(wanted)
        for table, slot in zip(wanted, slots, strict=True):
            assert_lies_in(arena.tables, slot, table)
        unique = {id(table): slot for table, slot in zip(wanted, slots, strict=True)}
        assert len(set(unique.values())) == len(unique)


def test_one_more_adapter_moves_no_other():
    rng = np.random.default_rng(0)
    arena = make_arena()
    known = [make_table(rng) for _ in range(5)]
    slots = arena.slots(known[:3])
    arrays = arena.tables
    assert arena.slots([known[0], known[2], known[3]])[:2] == [slots[0], slots[2]]
    assert arena.slots(known[:3]) == slots, "those who have left stay while there is room"
    assert arena.tables is arrays


def test_there_is_no_table_before_one_was_asked_for():
    with pytest.raises(AssertionError, match="no table"):
        _ = make_arena().tables
