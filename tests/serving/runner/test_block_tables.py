"""Block tables that are kept from step to step equal those that are made from nothing."""

import random

import numpy as np

from gossamer.serving.runner.lowering.block_tables import BlockTables


def made(blocks):
    array = np.zeros((len(blocks), max(map(len, blocks))), dtype=np.int32)
    for row, found in zip(array, blocks, strict=True):
        row[: len(found)] = found
    return array


def test_random_lives():
    rng = random.Random(0)
    tables, lists, given = BlockTables(), [], []
    for _ in range(2000):
        match rng.randrange(6):
            case 0:
                lists.append([rng.randrange(99) for _ in range(rng.randint(1, 6))])
            case 1 if len(lists) > 1:
                lists.pop(rng.randrange(len(lists)))
            case 2 if lists:
                # In place, as sequences grow.
                rng.choice(lists).append(rng.randrange(99))
            case 3 if lists:
                changed = rng.choice(lists)
                changed[rng.randrange(len(changed))] = rng.randrange(99)
            case 4 if lists:
                changed = rng.choice(lists)
                del changed[rng.randint(1, len(changed)) :]
            case _:
                rng.shuffle(lists)
        if not lists:
            continue
        array = tables.array(lists)
        assert np.array_equal(array, made(lists))
        given.append((array, array.copy()))
    # What a step in flight has been given is not changed by those that follow.
    assert all(np.array_equal(array, copy) for array, copy in given)


def test_nothing_is_made_again_while_nothing_changes():
    tables = BlockTables()
    first = tables.array([[1, 2], [3]])
    assert tables.array([[1, 2], [3]]) is first
    assert tables.array([[1, 2], [3, 4]]) is not first
