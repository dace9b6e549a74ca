"""Copies that are still under way when the copying thread has begun them."""

import pytest
from policy_fakes import World

from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.memory.block_pool import BlockPool


class LateTicket:
    """Done when the test says so, or when someone waits for it on the host."""

    def __init__(self, table):
        self.table = table
        self.is_done = False
        self.error = None
        self.waits = 0

    @property
    def done(self):
        if self.error is not None:
            raise self.error
        return self.is_done

    def result(self):
        return self.table

    def wait(self):
        self.waits += 1

    def join(self):
        self.is_done = True


class LatePlacer:
    def __init__(self):
        self.tickets = []
        self.afters = []

    def __call__(self, rows, blocks, after):
        self.afters.append(after)
        self.tickets.append(LateTicket((rows, tuple(blocks))))
        return self.tickets[-1]


def late_world(num_blocks=40, *, launched=lambda: 0, **store):
    world = World(
        num_blocks, {"a": 5, "b": 5}, store={"copies": "manual", **store}, launched=launched
    )
    world.loader.place = LatePlacer()
    return world, world.loader.place


def begin(world, name):
    sequence = world.add(4, 2, name)
    world.step()
    world.threads.run()
    world.step()
    world.copies.run(1)
    return sequence


def test_an_adapter_stays_on_its_way_until_its_ticket_is_done():
    world, placer = late_world()
    sequence = begin(world, "a")
    for _ in range(3):
        world.step()
        assert sequence.adapter.state is AdapterState.PLACING
        assert not sequence.token_ids[4:]
    placer.tickets[0].is_done = True
    world.step()
    assert sequence.adapter.state is AdapterState.RESIDENT
    assert sequence.adapter.table == ("a@0", tuple(sequence.adapter.blocks))
    world.steps()
    assert world.done == [sequence]


def test_the_engine_is_woken_once_when_a_ticket_is_done_after_its_last_step():
    world, _ = late_world()
    sequence = begin(world, "a")
    for _ in range(3):
        world.step()
    assert len(world.copies.jobs) == 1, "one thread waits for the copy, not one for each step"
    rings = world.rings
    world.copies.run()
    assert world.rings == rings + 1
    world.step()
    assert sequence.adapter.state is AdapterState.RESIDENT


def test_a_second_copy_wakes_the_engine_too():
    world, _ = late_world()
    first, second = begin(world, "a"), begin(world, "b")
    world.steps()
    assert set(world.done) == {first, second}


def test_a_ticket_that_fails_ends_its_requests_and_frees_its_blocks():
    world, placer = late_world()
    begin(world, "a")
    placer.tickets[0].error = RuntimeError("the device is lost")
    other = world.add(4, 2)
    world.steps()
    assert [str(error) for _, error in world.refused] == [
        "adapter a cannot be placed: the device is lost"
    ]
    assert world.done == [other]
    assert world.pool.num_free == 40


@pytest.mark.parametrize("virtual", [False, True])
def test_what_is_placed_at_once_makes_steps_wait_for_its_ticket(virtual):
    world, placer = late_world(copies=None)
    world.loader.virtual = {"a": 3} if virtual else {}
    sequence = world.add(4, 2, "a")
    world.steps()
    assert world.done == [sequence]
    assert [ticket.waits for ticket in placer.tickets] == [1]


def test_host_rows_stay_while_they_are_copied():
    world, placer = late_world(host_bytes=0)
    sequence = begin(world, "a")
    world.scheduler.remove(sequence)
    world.store.unload("a", lambda: None)
    for _ in range(3):
        world.step()
        world.store.drop_unneeded_rows()
        assert sequence.adapter.state is AdapterState.PLACING
        assert sequence.adapter.rows == "a@0"
    placer.tickets[0].is_done = True
    world.step()
    assert sequence.adapter.rows is None
    assert world.pool.num_free == 40


def test_a_copy_goes_behind_the_step_that_was_launched_last_when_its_blocks_came_back():
    launched = [0]
    pool = BlockPool(8, lambda: launched[0])
    early, late = pool.take(3, "early"), pool.take(3, "late")
    assert pool.last_step(early) == 0
    launched[0] = 5
    pool.give(early, "early")
    launched[0] = 7
    pool.give(late, "late")
    launched[0] = 9
    assert pool.last_step(early) == 5
    assert pool.last_step([*early, *late]) == 7
    assert pool.last_step([]) == 0
    assert pool.last_step(pool.take(8, "next")) == 7


def test_the_placer_is_told_that_step():
    steps = [0]
    world, placer = late_world(14, launched=lambda: steps[0])
    begin(world, "a")
    placer.tickets[0].is_done = True
    steps[0] = 3
    world.steps()
    steps[0] = 4
    world.memory.reclaim(14)
    steps[0] = 6
    world.add(4, 2, "b")
    world.steps()
    assert placer.afters == [0, 4]
