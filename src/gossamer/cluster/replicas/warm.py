"""Loads the adapters that are at home on a replica when it starts, before they are asked for."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from gossamer.cluster.placement.homes import Homes
from gossamer.cluster.published.catalog import AdapterCatalog, PublishedAdapter
from gossamer.cluster.published.store import DiskCache
from gossamer.errors import CapacityError, EngineStoppedError, GossamerError, StorageError
from gossamer.serving.core.stats import EngineStats
from gossamer.serving.settings import ServeSettings

log = logging.getLogger(__name__)

POOL_SHARE = 0.5
"""Part of the pool's blocks that may be taken; the rest is for the requests that come meanwhile."""
MAX_ASKED = 100_000
"""Names among which those at home here are looked for,"""
ASKED_PER_REPLICA = 2000
"""and as many for each replica."""
WAIT_SECONDS = 600.0
"""An adapter that takes longer to load is passed over."""


class Warming:
    """Loads adapters one after another on a thread of its own, beside the first requests.

    The first ones come to lie in the pool, as long as half of its blocks stay free, the next ones
    in host memory, until its bound is reached; nothing is removed for them. What fails is passed
    over: a request for it will tell why.
    """

    def __init__(self, engine: Any, cache: DiskCache, host_bytes: int) -> None:
        """`host_bytes` bounds what adapters take in the engine's host memory."""
        self._engine, self._cache, self._host_bytes = engine, cache, host_bytes
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.done = 0
        """Adapters that were loaded."""
        self.left = 0
        """Adapters that may still be loaded."""

    def start(self, find: Callable[[], Sequence[PublishedAdapter]]) -> None:
        """Begin with what `find` returns, in its order; called once, and returns at once."""
        self._thread = threading.Thread(
            target=self._run, args=(find,), name="gossamer-warming", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Load nothing more."""
        self._stop.set()

    def join(self) -> None:
        """Wait until nothing more will be loaded."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, find: Callable[[], Sequence[PublishedAdapter]]) -> None:
        try:
            wanted = find()
            self.left = len(wanted)
            for adapter in wanted:
                if self._stop.is_set() or not self._load(adapter):
                    break
                self.left -= 1
        except Exception as error:  # a replica serves without it
            log.warning("adapters were not loaded ahead of requests: %s", error)
        finally:
            self.left = 0

    def _load(self, adapter: PublishedAdapter) -> bool:
        """Load one; False where neither the pool nor host memory has room for more."""
        try:
            self._cache.acquire(adapter.digest, adapter.place)
        except StorageError:
            raise
        except GossamerError as error:
            log.warning("adapter %s was not loaded ahead of requests: %s", adapter.name, error)
            return True
        try:
            return self._into_memory(adapter)
        except EngineStoppedError:
            return False
        except (GossamerError, TimeoutError) as error:
            log.warning("adapter %s was not loaded ahead of requests: %s", adapter.name, error)
            return True
        finally:
            self._cache.release(adapter.digest)

    def _into_memory(self, adapter: PublishedAdapter) -> bool:
        digest, stats = adapter.digest, self._engine.stats()
        most = self._host_bytes - stats.host_bytes
        room = int(stats.blocks_free - (1 - POOL_SHARE) * stats.blocks_total) * stats.block_bytes
        if adapter.num_bytes > max(most, room):
            return False
        loaded = self._engine.load_adapter(digest).result(WAIT_SECONDS)
        size = loaded.num_bytes or 0
        if size <= room:
            try:
                # To be pinned it is placed; it stays when it is no longer pinned.
                self._engine.pin_adapter(digest, pinned=True).result(WAIT_SECONDS)
            except CapacityError:
                pass
            else:
                self._engine.pin_adapter(digest, pinned=False).result(WAIT_SECONDS)
                self.done += 1
                return True
        if size <= most:
            self.done += 1
            return True
        return False


def most_asked_at_home(
    catalog: AdapterCatalog, rank: int, replicas: int
) -> Sequence[PublishedAdapter]:
    """Find the adapters whose requests come to replica `rank` of 0 to `replicas` - 1, those that
    are asked for most first. Raises `StorageError`."""
    homes = Homes()
    homes.set_members(range(replicas))
    asked = catalog.asked.most(min(MAX_ASKED, ASKED_PER_REPLICA * replicas))
    found = (catalog.find(name) for name in homes.at_home(rank, asked))
    return [each for each in found if each is not None]


def host_bound(serving: ServeSettings, stats: EngineStats) -> int:
    """Return the bytes of host memory that adapters may take, as the engine has it."""
    if serving.host_cache_gib is not None:
        return int(serving.host_cache_gib * 1024**3)
    return min(stats.blocks_total * stats.block_bytes, 1024**3)
