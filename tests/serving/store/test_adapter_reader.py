"""Reading ahead of the engine: for requests that it has not seen yet."""

import pytest
from policy_fakes import FakeFolder, FakeLoader, ManualThreads

from gossamer.errors import AdapterFormatError, UnknownModelError
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.store.reader import MOST_EARLY, AdapterReader


@pytest.fixture
def folder():
    return FakeFolder(dict.fromkeys("abcdefgh", 1))


@pytest.fixture
def loader(folder):
    return FakeLoader(folder)


@pytest.fixture
def threads():
    return ManualThreads()


@pytest.fixture
def wakes():
    return []


@pytest.fixture
def reader(loader, threads, wakes):
    return AdapterReader(loader, threads, lambda: wakes.append(1), num_blocks=9)


def test_what_was_read_early_is_not_read_again(reader, folder, threads):
    entry = folder.look_up("a")
    reader.prefetch_read(entry)
    reader.prefetch_read(entry)
    entry.requests = 1
    threads.run()
    assert reader.collect() == []
    assert entry.state is AdapterState.REGISTERED
    reader.start(entry)
    assert threads.jobs == []
    assert reader.collect() == [entry]
    assert (entry.state, entry.rows) == (AdapterState.HOST, "a@0")


def test_an_early_reading_that_is_under_way_is_waited_for(reader, folder, threads, wakes):
    entry = folder.look_up("a")
    reader.prefetch_read(entry)
    reader.start(entry)
    assert reader.collect() == []
    assert not wakes
    threads.run()
    assert wakes
    assert reader.collect() == [entry]


def test_whoever_takes_what_was_read_is_woken_to_collect_it(reader, folder, threads, wakes):
    entry = folder.look_up("a")
    entry.requests = 1
    reader.prefetch_read(entry)
    threads.run()
    reader.collect()
    wakes.clear()
    reader.start(entry)
    assert wakes


def test_a_request_that_has_come_adopts_what_was_read_for_it(reader, folder, threads):
    entry, other = folder.look_up("a"), folder.look_up("b")
    reader.prefetch_read(entry)
    reader.adopt(entry)
    reader.adopt(other)
    assert (entry.state, other.state) == (AdapterState.LOADING, AdapterState.REGISTERED)
    threads.run()
    assert reader.collect() == [entry]


def test_what_was_unloaded_meanwhile_stays_so(reader, folder, threads):
    entry = folder.look_up("a")
    reader.prefetch_read(entry)
    entry.requests = 1
    entry.end(AdapterState.REMOVED, UnknownModelError("a"))
    reader.adopt(entry)
    reader.start(entry)
    threads.run()
    assert reader.collect() == []
    assert entry.state is AdapterState.REMOVED
    assert not reader.num_early


def test_no_more_than_a_few_and_none_twice(reader, folder, threads):
    entries = [folder.look_up(name) for name in "abcdefgh"]
    for entry in entries:
        reader.prefetch_read(entry)
    assert len(threads.jobs) == MOST_EARLY
    for entry in entries:
        reader.start(entry)
        reader.prefetch_read(entry)
    assert len(threads.jobs) == len(entries)
    threads.run()
    assert reader.collect() == entries


@pytest.mark.parametrize("early_bytes", [MOST_EARLY, MOST_EARLY + 2])
def test_small_ones_may_be_more(loader, folder, threads, early_bytes):
    reader = AdapterReader(loader, threads, lambda: None, num_blocks=9, early_bytes=early_bytes)
    for name in "abcdefgh":
        reader.prefetch_read(folder.look_up(name))
    assert len(threads.jobs) == early_bytes


def test_a_request_that_does_not_come_leaves_nothing_behind(reader, folder, threads, loader):
    for name in "abcdefgh":
        reader.prefetch_read(folder.look_up(name))
        assert len(threads.jobs) == 1, "those before still count"
        threads.run()
        assert reader.collect() == []
    loader.errors["a"] = AdapterFormatError("broken")
    last = folder.look_up("a")
    reader.prefetch_read(last)
    threads.run()
    assert reader.collect() == []
    assert last.state is AdapterState.REGISTERED


def test_an_error_met_early_is_the_adapters(reader, folder, threads, loader):
    loader.errors["a"] = AdapterFormatError("broken")
    entry = folder.look_up("a")
    entry.requests = 1
    reader.prefetch_read(entry)
    threads.run()
    reader.collect()
    reader.start(entry)
    reader.collect()
    assert entry.state is AdapterState.REFUSED
    assert "broken" in str(entry.error)
