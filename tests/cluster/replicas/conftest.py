"""Replicas in this process: two engines, a catalog, and the engine that an ingress has."""

import asyncio
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
from engine_case import start

from gossamer.cluster.placement.homes import Homes
from gossamer.cluster.placement.ledger import QuotaLeases, QuotaLedger
from gossamer.cluster.published.catalog import AdapterCatalog
from gossamer.cluster.published.publish import publish_adapter
from gossamer.cluster.published.store import DiskCache, FolderStore
from gossamer.cluster.replicas.engine import ReplicaEngine
from gossamer.cluster.replicas.names import CatalogNames
from gossamer.cluster.replicas.remote_engine import RemoteEngine
from gossamer.serving.core.tenants import unlimited

from tiny import make_lora, make_tiny_model


class LocalReplicas:
    """Calls replicas of this process, at the homes of their adapters."""

    def __init__(self, replicas):
        self.replicas, self.homes, self.loads = replicas, Homes(), Counter()
        self.homes.set_members(range(len(replicas)))
        self.taken = []

    async def call(self, call):
        order = self.homes.order(call.home_of, self.loads)
        rank = next(rank for rank in order if rank not in call.tried)
        self.taken.append((call.home_of, rank))
        self.loads[rank] += 1
        events = self.replicas[rank].generate(call)
        try:
            async for batch in events:
                yield batch
        finally:
            await events.aclose()
            self.loads[rank] -= 1

    def figures(self):
        return [replica.figures() for replica in self.replicas]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A tiny base and four adapters."""
    folder = tmp_path_factory.mktemp("family")
    make_tiny_model(folder / "base")
    for number in range(4):
        make_lora(folder / "runs" / f"a{number}", folder / "base", rank=4, seed=number)
    return folder


@pytest.fixture(scope="module")
def loop():
    """An event loop on a thread of its own, as an ingress has."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def cluster(family, tmp_path_factory, loop):
    """Two replicas and an ingress's engine; four adapters are published."""
    shared = tmp_path_factory.mktemp("shared")
    store = FolderStore(shared)
    catalog = AdapterCatalog(f"sqlite:///{shared}/catalog.db")
    for run in sorted((family / "runs").iterdir()):
        publish_adapter(run, catalog, store)
    replicas, engines, caches = [], [], []
    for rank in range(2):
        cache = DiskCache(tmp_path_factory.mktemp("cache"), store, 10**9)
        engine = start(family / "base", (cache.folder,), num_blocks=200)
        engines.append(engine)
        caches.append(cache)
        replicas.append(ReplicaEngine(engine, cache, rank))
    local = LocalReplicas(replicas)
    quotas = QuotaLeases("here", unlimited, QuotaLedger().lease)
    # Each question sees the catalog as it is.
    names = CatalogNames(catalog, replicas[0].facts().model_name, Endless())
    engine = RemoteEngine(replicas[0].facts(), engines[0].tokenizer, names, local, quotas, loop)
    yield SimpleNamespace(
        engine=engine,
        engines=engines,
        caches=caches,
        local=local,
        catalog=catalog,
        store=store,
        shared=shared,
    )
    engine.shutdown()
    for replica in replicas:
        replica.close()


class Endless:
    """A clock on which more than a second passes between any two looks."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 2.0
        return self.now
