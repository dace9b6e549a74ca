"""One replica: an engine of its own, which fetches adapters by digest and reports what it does."""

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.cluster.published.store import DiskCache, SharedStore
from gossamer.cluster.replicas.settings import ClusterSettings
from gossamer.cluster.replicas.warm import Warming
from gossamer.cluster.replicas.wire import (
    CalledAdapter,
    ReplicaCall,
    ReplicaFacts,
    ReplicaFailure,
    WireEvent,
    figures_of,
    to_wire,
)
from gossamer.errors import GossamerError, ServingError, UnknownModelError
from gossamer.serving.core.adapter import AnyAdapter, blend_name
from gossamer.serving.core.daemon_threads import DaemonThreads
from gossamer.serving.core.messages import Event, Tokens
from gossamer.serving.core.tenants import LimitsOf, TenantLimits

log = logging.getLogger(__name__)


def shares_only(limits_of: LimitsOf) -> LimitsOf:
    """Keep what one engine judges by itself; quotas over all replicas are judged at the ingress."""

    def limits(tenant: str) -> TenantLimits:
        return replace(limits_of(tenant), max_in_flight=None, tokens_per_minute=None)

    return limits


@dataclass(eq=False, slots=True)
class _Submission:
    """A request on its way into the engine; given up, it does not get there or is cancelled."""

    engine: Any
    request_id: str
    lock: threading.Lock
    is_given_up: bool = False
    is_submitted: bool = False

    def submit(self, *arguments: Any) -> None:
        with self.lock:
            if not self.is_given_up:
                self.engine.submit(*arguments)
                self.is_submitted = True

    def give_up(self) -> None:
        with self.lock:
            self.is_given_up = True
            if self.is_submitted:
                self.engine.cancel(self.request_id)


class _Holds:
    """The adapters that one request holds in the cache, until they are released together.

    The thread that fetches one cannot be stopped, so it may have it only after that.
    """

    def __init__(self, cache: DiskCache | None) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._digests: list[str] = []
        self._is_released = False

    def acquire(self, adapter: CalledAdapter) -> None:
        """Have an adapter in the cache. May wait for the store; raises as `DiskCache.acquire`."""
        if self._cache is None:
            raise UnknownModelError(f"unknown model '{adapter.name}'; there is no store")
        self._cache.acquire(adapter.digest, adapter.place)
        with self._lock:
            if not self._is_released:
                self._digests.append(adapter.digest)
                return
        self._cache.release(adapter.digest)

    def release(self) -> None:
        """End all holds, and those that are still to come."""
        with self._lock:
            self._is_released = True
            digests, self._digests = self._digests, []
        if self._cache is not None:
            for digest in digests:
                self._cache.release(digest)


class ReplicaEngine:
    """Answers calls of the ingress with an engine of this process, on one event loop."""

    def __init__(
        self,
        engine: Any,
        cache: DiskCache | None,
        rank: int = 0,
        warming: Warming | None = None,
    ) -> None:
        """`cache` is the folder in which the engine finds adapters by digest; None: it finds them
        by name, in folders of its own, if it has any. `warming` is what loads those that are at
        home here; None: nothing does."""
        self._engine, self._cache, self._warming = engine, cache, warming
        self.rank = rank
        self._threads = DaemonThreads("gossamer-replica", most=32)
        self._calls: dict[_Submission, ReplicaCall] = {}
        """Calls that have not ended."""

    def facts(self) -> ReplicaFacts:
        """Describe what all replicas have in common."""
        engine = self._engine
        return ReplicaFacts(
            model_name=engine.model_name,
            special_tokens=engine.special_tokens,
            max_context=engine.max_context,
            limits=engine.model.limits,
            num_blocks=engine.scheduler.num_blocks,
        )

    async def generate(self, call: ReplicaCall) -> AsyncGenerator[list[WireEvent], None]:
        """Yield the events of a request as they come, several together; the last one ends it.

        A caller that stops listening cancels the request.
        """
        names = {each.digest: each.name for each in call.adapters if each.digest}
        request_id = call.request.request_id
        submission = _Submission(self._engine, request_id, threading.Lock())
        holds = _Holds(self._cache)
        has_ended = False
        self._calls[submission] = call
        try:
            events = _Events(asyncio.get_running_loop())
            try:
                name, adapter = await self._find(call, holds)
                request = replace(call.request, adapter=name)
                await self._on_thread(submission.submit, request, events.receive, adapter)
            except GossamerError as error:
                has_ended = True
                yield [ReplicaFailure.of(request_id, error, self.rank, names)]
                return
            while not has_ended:
                batch = await events.take()
                has_ended = not isinstance(batch[-1], Tokens)
                yield [to_wire(event, self.rank, names) for event in batch]
        finally:
            if not has_ended:
                # Submitting may take a moment still, on its thread.
                self._threads.submit(submission.give_up)
            holds.release()
            del self._calls[submission]

    def figures(self) -> dict[str, Any]:
        """Report who this is and what it does, for the routers and for those who look."""
        figures: dict[str, Any] = {"rank": self.rank, "process": os.getpid()}
        figures["healthy"] = self._engine.healthy()
        figures.update(figures_of(self._engine.stats(), self._names()))
        if self._cache is not None:
            self._cache.keep_held()
            stats = self._cache.stats()
            figures.update(cache_hits=stats.hits, cache_fetches=stats.fetches)
        if self._warming is not None:
            figures.update(warmed=self._warming.done, to_warm=self._warming.left)
        return figures

    def check(self) -> None:
        """Raise `ServingError` if the engine has stopped."""
        if not self._engine.healthy():
            raise ServingError("the engine has stopped")

    def close(self) -> None:
        """Stop the engine; requests that still run get their final event."""
        if self._warming is not None:
            self._warming.stop()
        self._engine.shutdown()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _names(self) -> dict[str, set[str]]:
        """What clients call the adapters of open calls, by the name that the engine knows."""
        names: dict[str, set[str]] = {}
        for call in list(self._calls.values()):
            for each in call.adapters:
                names.setdefault(_key(each), set()).add(each.name)
        return names

    async def _find(self, call: ReplicaCall, holds: _Holds) -> tuple[str | None, AnyAdapter | None]:
        """Have the adapters of a call here, in `holds`; the name by which the engine knows them."""
        if not call.adapters:
            return None, None
        for each in call.adapters:
            if each.digest:
                await self._on_thread(holds.acquire, each)
        if len(call.adapters) == 1 and call.adapters[0].weight is None:
            name = _key(call.adapters[0])
        else:
            name = blend_name(_weights(call))
        return name, await asyncio.wrap_future(self._engine.look_up(name))

    async def _on_thread(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.wrap_future(self._threads.submit(work, *arguments))


def _weights(call: ReplicaCall) -> Mapping[str, float]:
    weights: dict[str, float] = {}
    for each in call.adapters:
        # Two names of one content are one adapter with both weights.
        weight = 1.0 if each.weight is None else each.weight
        weights[_key(each)] = weights.get(_key(each), 0.0) + weight
    return weights


def _key(adapter: CalledAdapter) -> str:
    """The name by which the engine finds it."""
    return adapter.digest or adapter.name


class _Events:
    """The events of one request, from the engine's thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._inbox: deque[Event] = deque()
        self._ready = asyncio.Event()

    def receive(self, event: Event) -> None:
        self._inbox.append(event)
        with suppress(RuntimeError):  # the loop is closed: no one listens any more
            self._loop.call_soon_threadsafe(self._ready.set)

    async def take(self) -> list[Event]:
        while not self._inbox:
            self._ready.clear()
            if not self._inbox:
                await self._ready.wait()
        batch = []
        while self._inbox:
            batch.append(self._inbox.popleft())
        return batch


def open_cache(
    store: SharedStore | None, settings: ClusterSettings, limits: AdapterLimits
) -> DiskCache | None:
    """Open the cache of this machine; None where there is no store."""
    if store is None:
        return None
    folder = settings.cache.expanduser()
    return DiskCache(folder, store, int(settings.cache_gib * 1024**3), limits)
