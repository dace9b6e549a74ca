"""The engine as the HTTP layer of an ingress sees it: each request is a call of some replica.

A request of which nothing has been sent yet is tried once more on another replica when its own is
lost, stops, or is full. One that has begun ends with an error, as its tokens could not be taken
back.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from gossamer.cluster.placement.ledger import QuotaLeases
from gossamer.cluster.replicas.names import Names
from gossamer.cluster.replicas.wire import (
    CalledAdapter,
    ReplicaCall,
    ReplicaFacts,
    ReplicaFailure,
    WireEvent,
    summed,
)
from gossamer.errors import (
    EngineStoppedError,
    GossamerError,
    OverloadedError,
    QuotaError,
    RequestError,
    ServingError,
    StorageError,
)
from gossamer.serving.core.adapter import AnyAdapter, Blend
from gossamer.serving.core.daemon_threads import DaemonThreads
from gossamer.serving.core.messages import Event, Failed, Finished, Request, Tokens
from gossamer.serving.core.stats import AdapterStatus, EngineStats
from gossamer.serving.core.validation import check_request

log = logging.getLogger(__name__)

TRIES = 3
"""Replicas that are asked for one request, as long as nothing of its answer was sent."""
REFRESH_SECONDS = 1.0
"""So often an ingress tells the ledger what runs here."""
TELL_SECONDS = 30.0
"""So often an ingress tells the catalog what was asked for."""


class LostReplicaError(Exception):
    """The replica of a call is gone, or cannot be reached."""


class Replicas(Protocol):
    """Reaches the replicas; tests have a stand-in for Ray."""

    def call(self, call: ReplicaCall) -> AsyncGenerator[Sequence[WireEvent], None]:
        """Yield the events of a call from the replica that is chosen for it.

        Closing the generator cancels the request there. Raises `LostReplicaError`, and
        `OverloadedError` where too many calls wait for any replica.
        """

    def figures(self) -> Sequence[Mapping[str, Any]]:
        """Return what each replica has reported last (`ReplicaEngine.figures`)."""


class RemoteEngine:
    """Stands where an engine would, for all replicas of a base (`EngineInterface`)."""

    def __init__(
        self,
        facts: ReplicaFacts,
        tokenizer: Any,
        names: Names,
        replicas: Replicas,
        quotas: QuotaLeases,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`loop` is the event loop on which replicas are called."""
        self._facts, self._names, self._replicas = facts, names, replicas
        self._quotas, self._loop = quotas, loop
        self.tokenizer = tokenizer
        self._threads = DaemonThreads("gossamer-names", most=16)
        self._lock = threading.Lock()
        self._ids: set[str] = set()
        """The ids of all open requests; those in `_tasks` are on the event loop already."""
        self._tasks: dict[str, asyncio.Task[Finished | Failed]] = {}
        self._is_open = True

    @property
    def model_name(self) -> str:
        """See `EngineInterface.model_name`."""
        return self._facts.model_name

    @property
    def special_tokens(self) -> str:
        """See `EngineInterface.special_tokens`."""
        return self._facts.special_tokens

    @property
    def max_context(self) -> int:
        """See `EngineInterface.max_context`."""
        return self._facts.max_context

    def look_up(self, name: str) -> "Future[AnyAdapter]":
        """See `EngineInterface.look_up`; what it means is decided here, for all replicas."""
        return self._threads.submit(self._names.look_up, name)

    def check_entry(self, tenant: str, *, own: int, others: int) -> None:
        """See `EngineInterface.check_entry`."""
        self._require_open()
        self._quotas.check(tenant, own)

    def submit(
        self,
        request: Request,
        on_event: Callable[[Event], None],
        adapter: AnyAdapter | None = None,
    ) -> None:
        """See `EngineInterface.submit`. A full replica's refusal arrives as a `Failed` event."""
        self._require_open()
        check_request(request, self._facts.limits, self._facts.num_blocks)
        if adapter is None and request.adapter is not None:
            adapter = self._names.look_up(request.adapter)
        call = ReplicaCall(request=request, adapters=_called(adapter))
        with self._lock:
            if request.request_id in self._ids:
                raise RequestError(f"request id '{request.request_id}' is in use")
            self._ids.add(request.request_id)
        try:
            self._quotas.admit(request.tenant, len(request.prompt_token_ids))
        except BaseException:
            self._ids.discard(request.request_id)
            raise
        if call.home_of is not None:
            self._names.note_asked(call.home_of)
        self._loop.call_soon_threadsafe(self._begin, call, on_event)

    def cancel(self, request_id: str) -> None:
        """See `EngineInterface.cancel`."""
        self._loop.call_soon_threadsafe(self._cancel, request_id)

    def adapters(self) -> list[AdapterStatus]:
        """See `EngineInterface.adapters`; where they are loaded differs from replica to replica."""
        return self._names.statuses()

    def adapters_after(self, name: str, limit: int) -> list[AdapterStatus]:
        """See `PagedEngine.adapters_after`."""
        return self._names.statuses_after(name, limit)

    def adapters_near(self, model: str) -> list[AdapterStatus]:
        """See `PagedEngine.adapters_near`."""
        return self._names.statuses_near(model)

    def adapter(self, name: str) -> AdapterStatus:
        """See `EngineInterface.adapter`."""
        return self._names.status(name)

    def load_adapter(
        self, name: str, folder: str | None = None, *, replace: bool = False, pin: bool = False
    ) -> "Future[AdapterStatus]":
        """Raise `RequestError`: names are given in the catalog, or by folders."""
        raise RequestError(self._names.how_to_add)

    def unload_adapter(self, name: str) -> "Future[None]":
        """Raise `RequestError`: names are given in the catalog, or by folders."""
        raise RequestError(self._names.how_to_add)

    def pin_adapter(self, name: str, *, pinned: bool) -> "Future[AdapterStatus]":
        """Raise `RequestError`: adapters have homes, and are not pinned."""
        raise RequestError("adapters of a cluster have homes and are not pinned")

    def stats(self) -> EngineStats:
        """See `EngineInterface.stats`: the sums of what the replicas have reported last."""
        return EngineStats(**summed(self._replicas.figures()))

    def figures(self) -> list[dict[str, Any]]:
        """Return what each replica has reported last, by rank."""
        return sorted(map(dict, self._replicas.figures()), key=lambda each: each["rank"])

    def count_adapters(self) -> int:
        """Count the adapters that have a name. May wait for the catalog."""
        return self._names.count()

    def tell_asked(self) -> None:
        """Tell the catalog which adapters were asked for (`CatalogNames.tell_asked`). May wait; a
        catalog that cannot be asked is not told."""
        try:
            self._names.tell_asked()
        except StorageError as error:
            log.warning("what was asked for is not counted: %s", error)

    async def keep_telling(self) -> None:
        """Tell the ledger what runs here and the catalog what was asked for, now and then, until
        this is cancelled. Neither waits for the other, which may not answer."""
        await asyncio.gather(
            _repeat(REFRESH_SECONDS, self._quotas.refresh, "the ledger of quotas"),
            _repeat(TELL_SECONDS, self.tell_asked, "the catalog"),
        )

    @property
    def num_open(self) -> int:
        """Return how many requests of this ingress have not ended."""
        return len(self._ids)

    def healthy(self) -> bool:
        """See `EngineInterface.healthy`."""
        return self._is_open

    def shutdown(self, *, drain_seconds: float = 0.0) -> None:
        """Refuse new requests and cancel those that run; not from the event loop."""
        self._is_open = False
        for request_id in list(self._ids):
            self.cancel(request_id)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.tell_asked()
        self._names.close()

    def _begin(self, call: ReplicaCall, on_event: Callable[[Event], None]) -> None:
        """Start a call, on the event loop, before any cancel of it comes there."""
        task = self._loop.create_task(self._events(call, on_event))
        self._tasks[call.request.request_id] = task
        # A task that is cancelled at once never begins, and yet its request has a final event.
        task.add_done_callback(lambda done: self._end(call, on_event, done))

    def _end(
        self,
        call: ReplicaCall,
        on_event: Callable[[Event], None],
        task: "asyncio.Task[Finished | Failed]",
    ) -> None:
        request_id = call.request.request_id
        final: Finished | Failed = _cancelled(call)
        if not task.cancelled():
            error = task.exception()
            if error is None:
                final = task.result()
            else:  # a bug must not leave a client waiting
                log.error("request %s failed", request_id, exc_info=error)
                final = Failed(request_id=request_id, error=ServingError("the cluster has failed"))
        del self._tasks[request_id]
        self._ids.discard(request_id)
        self._quotas.leave(call.request.tenant)
        on_event(final)

    async def _events(
        self, call: ReplicaCall, on_event: Callable[[Event], None]
    ) -> Finished | Failed:
        """Pass the events of a request on; returns the final one, which is not passed on yet."""
        request, has_begun = call.request, False
        error: GossamerError = EngineStoppedError("no replica could take the request; try again")
        for _ in range(TRIES):
            events = self._replicas.call(call)
            try:
                async for batch in events:
                    for event in batch:
                        if isinstance(event, Tokens):
                            has_begun = True
                            self._quotas.spend(request.tenant, len(event.token_ids))
                            on_event(event)
                        elif isinstance(event, Finished):
                            return event
                        else:
                            raise _Refusal(event)
                raise LostReplicaError("the replica has ended the call without a final event")
            except _Refusal as refusal:
                error = refusal.failure.error()
                if has_begun or not _may_go_elsewhere(error):
                    break
                call = _elsewhere(call, refusal.failure.rank)
            except OverloadedError as full:
                error = full
                break
            except LostReplicaError as lost:
                log.warning("request %s lost its replica: %s", request.request_id, lost)
                if has_begun:
                    error = EngineStoppedError(
                        "the replica that computed this answer was lost; it was cut off, send the "
                        "request again"
                    )
                    break
                error = EngineStoppedError("the replica was lost; send the request again")
            finally:
                await events.aclose()
        return Failed(request_id=request.request_id, error=error)

    def _cancel(self, request_id: str) -> None:
        task = self._tasks.get(request_id)
        if task is not None:
            task.cancel()

    def _require_open(self) -> None:
        if not self._is_open:
            raise EngineStoppedError("the server is shutting down")


async def _repeat(seconds: float, tell: Callable[[], None], whom: str) -> None:
    """Call `tell` on a thread, with so long a pause before each call."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(tell)
        except Exception as error:  # the next call is another try
            log.error("%s could not be told of requests", whom, exc_info=error)


class _Refusal(Exception):
    """Leaves the events of a call whose request has failed."""

    def __init__(self, failure: ReplicaFailure) -> None:
        self.failure = failure


def _may_go_elsewhere(error: GossamerError) -> bool:
    """Whether another replica may take the request: this one is full or stops."""
    is_full = isinstance(error, OverloadedError) and not isinstance(error, QuotaError)
    return is_full or isinstance(error, EngineStoppedError)


def _elsewhere(call: ReplicaCall, rank: int) -> ReplicaCall:
    return ReplicaCall(request=call.request, adapters=call.adapters, tried=(*call.tried, rank))


def _cancelled(call: ReplicaCall) -> Finished:
    return Finished(
        request_id=call.request.request_id,
        finish_reason="cancelled",
        prompt_tokens=len(call.request.prompt_token_ids),
        completion_tokens=0,
    )


def _called(adapter: AnyAdapter | None) -> tuple[CalledAdapter, ...]:
    if adapter is None:
        return ()
    is_mixture = isinstance(adapter, Blend)
    return tuple(
        CalledAdapter(
            name=part.name,
            digest=part.digest or "",
            place=str(part.path) if part.digest else "",
            weight=weight if is_mixture else None,
        )
        for part, weight in adapter.uses
    )
