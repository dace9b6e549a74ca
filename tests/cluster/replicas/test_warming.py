"""A replica that starts loads what is at home on it, within its memory, before it is asked."""

import threading
from types import SimpleNamespace

import pytest
from engine_case import ask, ask_tokens, check_idle, start

from gossamer.cluster.published.catalog import AdapterCatalog
from gossamer.cluster.published.publish import publish_adapter
from gossamer.cluster.published.store import DiskCache, FolderStore
from gossamer.cluster.replicas.engine import ReplicaEngine
from gossamer.cluster.replicas.names import CatalogNames
from gossamer.cluster.replicas.warm import Warming, host_bound, most_asked_at_home
from gossamer.errors import StorageError
from gossamer.serving.settings import ServeSettings

NAMES = ["a2", "a0", "a3", "a1"]
"""In the order in which they are asked for."""


@pytest.fixture
def case(family, tmp_path):
    """A catalog with four adapters, asked for unequally, and how to start a replica."""
    store = FolderStore(tmp_path)
    catalog = AdapterCatalog(f"sqlite:///{tmp_path}/catalog.db")
    for run in sorted((family / "runs").iterdir()):
        publish_adapter(run, catalog, store)
    catalog.asked.add({name: 10 - number for number, name in enumerate(NAMES)})
    cache = DiskCache(tmp_path / "cache", store, 10**9)
    engines = []

    def replica(host_bytes=10**9, **settings):
        engine = start(family / "base", (cache.folder,), **settings)
        engines.append(engine)
        return engine, Warming(engine, cache, host_bytes)

    yield SimpleNamespace(catalog=catalog, store=store, cache=cache, replica=replica, base=tmp_path)
    for engine in engines:
        engine.shutdown()
    catalog.close()


def _at_home(case, rank=0, replicas=1):
    return most_asked_at_home(case.catalog, rank, replicas)


def _run(warming, wanted):
    warming.start(lambda: wanted)
    warming.join()


def _states(engine, wanted):
    return [engine.adapter(each.digest).state for each in wanted]


def _blocks(case, wanted):
    """So large a pool that half of it holds half of what is wanted."""
    engine, warming = case.replica()
    _run(warming, wanted)
    return engine.stats().blocks_adapters


def test_all_that_is_at_home_lies_in_the_pool_before_it_is_asked_for(case):
    engine, warming = case.replica()
    wanted = _at_home(case)
    assert [each.name for each in wanted] == NAMES
    _run(warming, wanted)
    assert (warming.done, warming.left) == (4, 0)
    assert _states(engine, wanted) == ["resident"] * 4
    figures = ReplicaEngine(engine, case.cache, 0, warming).figures()
    assert (figures["warmed"], figures["to_warm"]) == (4, 0)
    loads = engine.stats().adapter_loads
    for each in wanted:
        ask_tokens(engine, each.digest)
    assert engine.stats().adapter_loads == loads, "requests find them there"
    assert engine.stats().adapter_hits["resident"] == 4
    check_idle(engine)


def test_two_replicas_share_them(case):
    lists = [[each.name for each in _at_home(case, rank, 8)] for rank in range(8)]
    alone = [name for names in lists for name in names]
    assert set(alone) == set(NAMES)
    assert all(names == [name for name in NAMES if name in names] for names in lists)


def test_half_of_the_pool_is_left_for_requests_and_the_next_ones_wait_in_host_memory(case):
    wanted = _at_home(case)
    engine, warming = case.replica(num_blocks=_blocks(case, wanted))
    _run(warming, wanted)
    stats = engine.stats()
    states = _states(engine, wanted)
    assert states == sorted(states, reverse=True), "those that are asked for most are in the pool"
    assert set(states) == {"resident", "host"}
    assert warming.done == 4
    assert stats.blocks_free >= stats.blocks_total / 2
    assert stats.adapter_evictions == 0


def test_without_room_in_either_the_rest_stays_where_it_is(case):
    wanted = _at_home(case)
    blocks = _blocks(case, wanted)
    engine, warming = case.replica(host_bytes=0, num_blocks=blocks, host_cache_gib=0)
    before = case.cache.stats().hits
    _run(warming, wanted)
    looked_for = case.cache.stats().hits - before
    states = _states(engine, wanted)
    assert set(states) == {"resident", "registered"}
    assert warming.done == states.count("resident") < 4
    assert warming.left == 0
    assert looked_for == warming.done + 1


def test_one_that_is_damaged_is_passed_over(case, caplog):
    _, warming = case.replica()
    wanted = _at_home(case)
    (case.base / wanted[0].place / "adapter_model.safetensors").write_bytes(b"torn")
    _run(warming, wanted)
    assert warming.done == 3
    assert "a2 was not loaded ahead of requests" in caplog.text


def test_a_catalog_that_cannot_be_asked_keeps_no_replica_from_serving(case, caplog):
    engine, warming = case.replica()

    def find():
        raise StorageError("the catalog cannot be used: gone")

    warming.start(find)
    warming.join()
    assert (warming.done, warming.left) == (0, 0)
    assert "not loaded ahead of requests: the catalog cannot be used" in caplog.text
    assert engine.healthy()


def test_it_goes_on_beside_requests_and_ends_with_the_replica(case):
    engine, warming = case.replica()
    wanted, go_on = _at_home(case), threading.Event()
    acquire = case.cache.acquire

    def slow(digest, place):
        if threading.current_thread().name == "gossamer-warming" and digest == wanted[1].digest:
            assert go_on.wait(60)
        return acquire(digest, place)

    case.cache.acquire = slow
    warming.start(lambda: wanted)
    case.cache.acquire(wanted[3].digest, wanted[3].place)
    assert len(ask_tokens(engine, wanted[3].digest)) > 0
    replica = ReplicaEngine(engine, case.cache, 0, warming)
    replica.close()
    go_on.set()
    warming.join()
    assert warming.done <= 2


def test_requests_are_counted_for_the_catalog_by_the_heaviest_of_a_mixture(cluster):
    cluster.catalog.asked.add({"a0": 1})
    before = cluster.catalog.asked.most(10)
    for name in (None, "a1", "a1", "a2:0.1+a3:0.9"):
        ask(cluster.engine, adapter=name).wait()
    cluster.engine.tell_asked()
    after = cluster.catalog.asked.most(10)
    assert after["a1"] - before.get("a1", 0) >= 1.9
    assert after["a3"] - before.get("a3", 0) >= 0.9
    assert after["a0"] == pytest.approx(before["a0"], rel=0.01)


def test_a_catalog_that_is_away_is_told_nothing_and_requests_go_on(cluster, monkeypatch, caplog):
    def away(counts):
        raise StorageError("the catalog cannot be used: gone")

    monkeypatch.setattr(cluster.catalog.asked, "add", away)
    cluster.engine.tell_asked()
    assert "what was asked for is not counted" in caplog.text


def test_without_a_catalog_there_is_nothing_to_tell():
    names = CatalogNames(None, "base")
    names.note_asked("a0")
    names.tell_asked()
    names.close()


def test_the_bound_of_host_memory_is_the_engines():
    stats = SimpleNamespace(blocks_total=10, block_bytes=1000)
    large = SimpleNamespace(blocks_total=10**7, block_bytes=1000)
    assert host_bound(ServeSettings(model="m"), stats) == 10_000
    assert host_bound(ServeSettings(model="m"), large) == 1024**3
    assert host_bound(ServeSettings(model="m", host_cache_gib=0.5), large) == 2**29
