"""Merge mode as decided, without tensors: what runs merged, what is built, what is let go."""

import threading
from concurrent.futures import Executor, Future

import pytest
from policy_fakes import bring_to, entry_in

from gossamer.errors import AdapterReplacedError
from gossamer.serving.core.adapter import Blend
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.messages import Request
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.scheduler.hot_merge import HotAdapterPolicy, HotLimits, HotMerger
from gossamer.serving.scheduler.step import ScheduledChunk

WINDOW = 4


class Later(Executor):
    """Does what it was given when told to."""

    def __init__(self):
        self.given = []

    def submit(self, call, *arguments):
        future = Future()
        self.given.append((call, arguments, future))
        return future

    def work(self):
        for call, arguments, future in self.given:
            try:
                future.set_result(call(*arguments))
            except MemoryError as error:
                future.set_exception(error)
        self.given.clear()


@pytest.fixture
def later():
    return Later()


@pytest.fixture
def merger(later):
    policy = HotAdapterPolicy(HotLimits(window=WINDOW))
    merged = lambda entry, stop: None if stop.is_set() else f"layers of {entry.name}"  # noqa: E731
    return HotMerger(merged, policy=policy, threads=later)


def adapter(name, kind="low-rank"):
    return entry_in(AdapterState.RESIDENT, name, **({"kind": kind} if kind is not None else {}))


def step(*parts):
    """(adapter, tokens) of each sequence."""
    found = []
    for entry, count in parts:
        request = Request(request_id="", prompt_token_ids=(1,) * count)
        tokens = [1] * count
        sequence = Sequence(request=request, adapter=entry, max_new_tokens=1, token_ids=tokens)
        found.append(ScheduledChunk(sequence, count))
    return found


def turn(merger, *parts):
    merger.follow()
    return merger.choose(step(*parts))


def heat(merger, later, entry):
    for _ in range(WINDOW):
        assert turn(merger, (entry, 8)) is None
    merger.follow()
    later.work()


def test_merged_once_hot_and_built(merger, later):
    a = adapter("a")
    heat(merger, later, a)
    assert merger.merged_name is None
    merged = turn(merger, (a, 8))
    assert merged.entry is a
    assert merged.layers == "layers of a"
    assert (merger.merged_name, merger.num_merges, merger.num_steps) == ("a", 1, 1)


def test_steps_go_on_unmerged_while_the_copy_is_made(merger, later):
    a = adapter("a")
    for _ in range(5 * WINDOW):
        assert turn(merger, (a, 8)) is None
    assert len(later.given) == 1
    later.work()
    assert turn(merger, (a, 8)) is not None


def test_the_majority_of_a_step_decides(merger, later):
    a, b = adapter("a"), adapter("b")
    heat(merger, later, a)
    assert turn(merger, (a, 5), (b, 2), (None, 2)) is not None
    assert turn(merger, (a, 4), (b, 2), (None, 2)) is None
    assert turn(merger, (a, 3), (a, 2), (Blend((a, b), (1.0, 1.0)), 4)) is not None
    assert turn(merger, (b, 1)) is None
    assert merger.num_steps == 2


@pytest.mark.parametrize("kind", ["gain", "sparse", "intervention", "prefix", None])
def test_other_kinds_are_not_merged(merger, later, kind):
    for _ in range(5 * WINDOW):
        assert turn(merger, (adapter("a", kind), 8)) is None
    assert not later.given


def test_let_go_when_cold(merger, later):
    a = adapter("a")
    heat(merger, later, a)
    assert turn(merger, (a, 8)) is not None
    for _ in range(3 * WINDOW):
        turn(merger, (None, 8))
    assert merger.merged_name is None
    assert turn(merger, (a, 8)) is None


@pytest.mark.parametrize("state", [AdapterState.REGISTERED, AdapterState.REPLACED])
def test_let_go_when_evicted_or_replaced_even_if_idle(merger, later, state):
    a = adapter("a")
    heat(merger, later, a)
    merger.follow()
    assert merger.merged_name == "a"
    a.drop_rows()
    a.leave_blocks()
    if state is AdapterState.REPLACED:
        a.start_reading()
        a.end(state, AdapterReplacedError("other files"))
    merger.follow()
    assert merger.merged_name is None
    # Back again: not merged before a whole window has passed.
    if state is AdapterState.REPLACED:
        a = adapter("a")
    else:
        bring_to(a, AdapterState.RESIDENT)
    for _ in range(WINDOW - 1):
        turn(merger, (a, 8))
    assert not later.given


def test_a_copy_of_what_has_gone_is_stopped_and_not_taken(merger, later):
    a, b = adapter("a"), adapter("b")
    for _ in range(WINDOW):
        turn(merger, (a, 8))
    merger.follow()
    a.drop_rows()
    a.leave_blocks()
    merger.follow()
    (_, (_, stop), _), *_ = later.given
    assert stop.is_set()
    # One at a time: the next begins when the last has ended.
    for _ in range(WINDOW):
        turn(merger, (b, 8))
    merger.follow()
    assert len(later.given) == 1
    later.work()
    merger.follow()
    assert merger.merged_name is None
    assert len(later.given) == 1
    later.work()
    assert turn(merger, (b, 8)).entry is b
    assert merger.num_merges == 1


def test_what_cannot_be_merged_is_served_unmerged(later, caplog):
    def fail(entry, stop):
        raise MemoryError("no room")

    merger = HotMerger(fail, policy=HotAdapterPolicy(HotLimits(window=WINDOW)), threads=later)
    a = adapter("a")
    for _ in range(10 * WINDOW):
        assert turn(merger, (a, 8)) is None
        later.work()
    assert [record.message for record in caplog.records] == ["adapter a is not merged: no room"]
    assert merger.num_merges == 0


def test_closing_stops_the_work():
    started = threading.Event()

    def merge(entry, stop):
        started.set()
        assert stop.wait(30)

    merger = HotMerger(merge, policy=HotAdapterPolicy(HotLimits(window=1)))
    turn(merger, (adapter("a"), 1))
    merger.follow()
    assert started.wait(30)
    merger.close()
