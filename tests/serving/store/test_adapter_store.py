"""From files to blocks and back: versions, refusals, slow reads, eviction, names as attacks."""

import errno
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from policy_fakes import FakeFolder, FakeLoader, Stores

from gossamer.errors import (
    AdapterFormatError,
    AdapterReadError,
    AdapterReplacedError,
    CapacityError,
    GossamerError,
)
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.memory.block_pool import BlockPool

# The folder.


# The store.


class Store:
    """An adapter store over pretended files, with its real reading thread."""

    def __init__(self, num_blocks=20, sizes=None, loader=FakeLoader, **options):
        self.folder = FakeFolder(sizes or {"a": 5, "b": 5})
        self.pool = BlockPool(num_blocks)
        self.loader = loader(self.folder)
        self.woken = threading.Event()
        made = Stores(self.folder, self.pool, self.loader, self.woken.set, **options)
        self.store, self.memory, self.reader = made.adapters, made.memory, made.reader

    def read(self, *names):
        """Look up and read; returns the entries."""
        entries = [self.store.look_up(name) for name in names]
        for entry in entries:
            self.store.start_load(entry)
        deadline = time.monotonic() + 10
        while any(entry.state is AdapterState.LOADING for entry in entries):
            assert time.monotonic() < deadline
            self.woken.wait(0.01)
            self.store.collect_loads()
        return entries


@pytest.fixture
def make_store():
    stores = []

    def make(*args, **options):
        stores.append(Store(*args, **options))
        return stores[-1]

    yield make
    for each in stores:
        each.store.close()


def test_one_entry_as_long_as_the_files_stay(make_store):
    world = make_store()
    entry = world.store.look_up("a")
    assert world.store.look_up("a") is entry
    world.folder.versions["a"] += 1
    assert world.store.look_up("a") is not entry


def test_replaced_files_give_new_weights_and_users_keep_the_old(make_store):
    world = make_store()
    (old,) = world.read("a")
    world.store.acquire(old)
    world.folder.versions["a"] += 1
    (new,) = world.read("a")
    world.store.acquire(new)
    assert old.table[0] == "a@0"
    assert new.table[0] == "a@1"
    assert not set(old.blocks) & set(new.blocks)
    world.store.release(old)
    # The old one can no longer be asked for: it goes first, though used last.
    world.store.release(new)
    world.memory.reclaim(11)
    assert world.memory.resident == [new]


def test_an_old_version_is_never_continued_with_new_weights(make_store):
    world = make_store()
    (old,) = world.read("a")
    world.store.acquire(old)
    world.store.release(old)
    world.memory.reclaim(20)
    assert old.state is AdapterState.REGISTERED
    world.folder.versions["a"] += 1
    world.store.start_load(old)
    while old.state is AdapterState.LOADING:
        world.woken.wait(0.01)
        world.store.collect_loads()
    assert old.state is AdapterState.REPLACED
    assert type(old.error) is AdapterReplacedError
    assert "was replaced" in str(old.error)
    (new,) = world.read("a")
    assert new.state is AdapterState.HOST


def test_a_replacement_that_only_its_content_betrays(make_store):
    """Same size and time: the signature is the same, the digest is not."""
    world = make_store()
    (old,) = world.read("a")
    world.store.acquire(old)
    world.store.release(old)
    world.memory.reclaim(20)
    world.folder.signature_of = lambda name: 0
    world.folder.versions["a"] += 1
    world.read("a")
    assert old.state is AdapterState.REPLACED
    (new,) = world.read("a")
    assert new is not old
    world.store.acquire(new)
    assert new.table[0] == "a@1"


def test_the_same_files_are_read_again_after_eviction(make_store):
    world = make_store()
    (entry,) = world.read("a")
    world.store.acquire(entry)
    world.store.release(entry)
    world.memory.reclaim(20)
    world.read("a")
    world.store.acquire(entry)
    assert entry.table[0] == "a@0"
    assert world.memory.num_evictions == 1
    assert world.memory.num_loads == 2


def test_eviction_spares_what_is_used_and_what_it_is_told_to(make_store):
    world = make_store(sizes={"a": 5, "b": 5, "c": 5})
    used, idle, spared = world.read("a", "b", "c")
    for entry in (used, idle, spared):
        world.store.acquire(entry)
    world.store.release(idle)
    world.store.release(spared)
    assert world.memory.num_reclaimable() == 10
    assert world.memory.num_reclaimable(sparing=spared) == 5
    assert not world.memory.reclaim(20, sparing=spared)
    assert world.memory.resident == [used, spared]
    assert not world.memory.reclaim(20)
    assert world.memory.resident == [used]
    assert used.blocks
    world.pool.audit()


def test_no_more_is_evicted_than_needed(make_store):
    world = make_store(sizes={"a": 5, "b": 5, "c": 5})
    entries = world.read("a", "b", "c")
    for entry in entries:
        world.store.acquire(entry)
        world.store.release(entry)
    assert world.memory.reclaim(5)
    assert len(world.memory.resident) == 3
    # Which one goes depends on how long each took to read, on this machine.
    assert world.memory.reclaim(6)
    assert len(world.memory.resident) == 2


def test_what_cannot_be_acquired(make_store):
    world = make_store(num_blocks=12, sizes={"a": 8, "b": 8, "huge": 12})
    a = world.store.look_up("a")
    assert not world.memory.fits(a)
    a, b, huge = world.read("a", "b", "huge")
    assert world.memory.fits(a)
    world.store.acquire(a)
    assert not world.memory.fits(b)
    world.store.release(a)
    assert world.memory.fits(b)
    assert huge.state is AdapterState.REFUSED
    assert not world.memory.fits(huge)
    with pytest.raises(CapacityError, match="--memory"):
        world.store.look_up("huge")


def test_a_refusal_tells_clients_the_name_and_not_the_place(make_store):
    world = make_store()
    look_up = world.folder.look_up
    world.folder.look_up = lambda name: replace(look_up(name), path=Path("/srv/adapters/a"))
    world.loader.errors["a"] = AdapterFormatError("/srv/adapters/a/weights are cut short")
    (entry,) = world.read("a")
    assert str(entry.error) == "a/weights are cut short"


def test_a_refused_adapter_is_served_once_its_files_are_mended(make_store):
    world = make_store()
    world.loader.errors["a"] = AdapterFormatError("torn")
    (entry,) = world.read("a")
    assert entry.state is AdapterState.REFUSED
    with pytest.raises(AdapterFormatError, match="torn"):
        world.store.look_up("a")
    del world.loader.errors["a"]
    world.folder.versions["a"] += 1
    (entry,) = world.read("a")
    assert entry.state is AdapterState.HOST


def test_an_error_told_many_times_does_not_grow(make_store):
    world = make_store()
    world.loader.errors["a"] = AdapterFormatError("torn")
    world.read("a")

    def depth():
        with pytest.raises(AdapterFormatError) as caught:
            world.store.look_up("a")
        trace, count = caught.value.__traceback__, 0
        while trace is not None:
            trace, count = trace.tb_next, count + 1
        return count

    depths = {depth() for _ in range(20)}
    assert len(depths) == 1


def test_reading_does_not_hold_up_the_caller(make_store):
    class Slow(FakeLoader):
        gate = threading.Event()

        def load(self, entry):
            assert self.gate.wait(10)
            return super().load(entry)

    world = make_store(loader=Slow)
    entries = [world.store.look_up(name) for name in "ab"]
    for entry in entries:
        world.store.start_load(entry)
        world.store.start_load(entry)
    world.store.collect_loads()
    assert [entry.state for entry in entries] == [AdapterState.LOADING] * 2
    assert world.reader.num_loading
    assert not world.woken.is_set()
    Slow.gate.set()
    world.read("a", "b")
    assert [entry.state for entry in entries] == [AdapterState.HOST] * 2
    assert not world.reader.num_loading
    assert world.memory.num_loads == 0


def test_statuses_tell_what_clients_can_use(make_store):
    world = make_store(sizes={"a": 5, "b": 5, "c": 5, "d": 30})
    world.read("b", "c", "d")
    world.store.acquire(world.store.look_up("c"))
    found = {status.name: status for status in world.store.statuses()}
    states = {name: status.state for name, status in found.items()}
    assert states == {"a": "registered", "b": "host", "c": "resident", "d": "refused"}
    assert found["c"].rank == 1
    assert found["c"].digest == "c@0"
    assert found["a"].rank is None
    assert "30 blocks" in found["d"].problem
    world.folder.sizes.pop("a")
    assert "a" not in {status.name for status in world.store.statuses()}


def test_looking_up_from_many_threads(make_store):
    world = make_store()
    found, errors = [], []

    def work():
        for _ in range(300):
            try:
                found.append(world.store.look_up("a"))
                world.store.statuses()
            except GossamerError as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert not errors


# Faults that are not the adapter's.

PASSING = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EACCES, "Permission denied"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
    AdapterReadError("a disk that hangs"),
    TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: f"{type(error).__name__}{error}"[:25])
def test_a_passing_error_is_told_once_and_then_tried_again(make_store, error):
    world = make_store()
    world.loader.errors["a"] = error
    (entry,) = world.read("a")
    assert entry.state is AdapterState.UNREADABLE
    assert type(entry.error) is AdapterReadError
    assert entry.error.retry_after > 0
    assert world.store.look_up("a") is not entry
    del world.loader.errors["a"]
    assert [each.state for each in world.read("a")] == [AdapterState.HOST]


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "No such file"), KeyError("a bug"), ValueError("x")]
)
def test_what_is_wrong_with_an_adapter_stays_so_until_its_files_change(make_store, error):
    world = make_store()
    world.loader.errors["a"] = error
    world.read("a")
    with pytest.raises(AdapterFormatError):
        world.store.look_up("a")
    del world.loader.errors["a"]
    with pytest.raises(AdapterFormatError):
        world.store.look_up("a")
    world.folder.versions["a"] += 1
    assert [each.state for each in world.read("a")] == [AdapterState.HOST]


def test_a_reading_that_hangs_holds_up_nobody_and_takes_one_thread(make_store, monkeypatch):
    monkeypatch.setattr("gossamer.serving.core.daemon_threads.SLOW_SECONDS", 0.02)
    world = make_store(read_seconds=0.1)
    gate, load, begun = threading.Event(), world.loader.load, []

    def hang(entry):
        begun.append(entry.name)
        assert entry.name != "a" or gate.wait(30)
        return load(entry)

    world.loader.load = hang
    world.store.start_load(world.store.look_up("a"))
    assert [each.state for each in world.read("b")] == [AdapterState.HOST]
    (entry,) = world.read("a")
    assert entry.state is AdapterState.UNREADABLE
    assert "hangs or is slow" in str(entry.error)
    # Those who ask meanwhile are told at once, and no other thread is lost.
    again = world.store.look_up("a")
    world.store.prefetch_read(again)
    world.store.start_load(again)
    assert again.state is AdapterState.UNREADABLE
    assert begun.count("a") == 1
    gate.set()
    deadline = time.monotonic() + 30
    while world.reader.num_hanging:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [each.state for each in world.read("a")] == [AdapterState.HOST]
