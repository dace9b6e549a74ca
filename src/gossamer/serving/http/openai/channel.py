"""Joins all engine requests of one HTTP call into one stream of events on the event loop.

The engine calls back from a thread of its own. Events are put into a deque there, and the loop is
woken at most once until it has looked; the engine never waits for a client.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from gossamer.errors import EngineStoppedError
from gossamer.serving.core.adapter import AnyAdapter
from gossamer.serving.core.interface import EngineInterface, HoldingEngine
from gossamer.serving.core.messages import Event, Failed, Finished, Request, Tokens
from gossamer.serving.http.metrics.server import CallTimer

Batch = list[tuple[int, Tokens | Finished]]


class Channel:
    """The events of one call's requests, from the engine to the event loop.

    Use from one task of one event loop: `hold` once the adapter is known, `submit` on some thread,
    then `batches`, and `cancel` in the end.

    `cancel` reaches the engine once for every request that has not ended, and only then.
    """

    def __init__(self, engine: EngineInterface, timer: CallTimer) -> None:
        self._engine = engine
        self._timer = timer
        self._ids: list[str] = []
        # Held while a request is submitted; the event loop never waits for it.
        self._lock = threading.Lock()
        self._is_given_up = False
        # Lets the adapter go; the thread that takes it out calls it, so that it is called once.
        self._holds: deque[Callable[[], None]] = deque()
        self._open: set[int] = set()
        self._inbox: deque[tuple[int, Event, float]] = deque()
        self._loop = asyncio.get_running_loop()
        self._wake_is_due = False
        self._ready = asyncio.Event()

    @property
    def num_choices(self) -> int:
        """The number of requests that were submitted."""
        return len(self._ids)

    def hold(self, adapter: AnyAdapter | None) -> None:
        """Let an unload of what `EngineInterface.look_up` gave wait for the requests of this call.

        It is held until `submit` ends, or `cancel` is called.
        """
        if adapter is None or self._is_given_up:
            return
        if isinstance(self._engine, HoldingEngine):
            self._holds.append(self._engine.hold(adapter))

    def submit(self, requests: Sequence[Request], adapter: AnyAdapter | None) -> None:
        """Submit all requests, on any thread, with what `EngineInterface.look_up` gave.

        If one is refused, cancels those before it and raises the engine's error. Stops when
        `cancel` is called meanwhile.
        """
        try:
            for index, request in enumerate(requests):
                if self._is_given_up:
                    return
                with self._lock:
                    self._engine.submit(request, partial(self._post, index), adapter)
                    self._ids.append(request.request_id)
                    self._open.add(index)
                if self._is_given_up:
                    # Maybe while the lock was held, so that it is for this thread to cancel.
                    self.cancel()
                    return
        except BaseException:
            self.cancel()
            raise
        finally:
            self._let_go()

    async def first(self) -> None:
        """Wait for the first event of any choice; raise what `batches` would raise for it."""
        await self._arrival()
        index, event, _ = self._inbox[0]
        if isinstance(event, Failed):
            self._open.discard(index)
        _raise_unless_good(event)

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield all (index of the choice, event) that have come together, until all have ended.

        Raises the error of a request that failed, or `EngineStoppedError` if the engine gave up;
        what came before it has been given then.
        """
        while self._open:
            await self._arrival()
            batch: Batch = []
            while self._inbox and not (batch and _is_bad(self._inbox[0][1])):
                batch.append(self._next())
            yield batch

    def cancel(self) -> None:
        """Stop whatever has not ended, and submit no more. From any thread, and at once.

        What is being submitted just now is cancelled by the thread that does so.
        """
        self._is_given_up = True
        self._let_go()
        if self._lock.acquire(blocking=False):
            try:
                while self._open:
                    self._engine.cancel(self._ids[self._open.pop()])
            finally:
                self._lock.release()

    def _let_go(self) -> None:
        try:
            let_go = self._holds.pop()
        except IndexError:
            return
        let_go()

    def _next(self) -> tuple[int, Tokens | Finished]:
        index, event, moment = self._inbox.popleft()
        if not isinstance(event, Tokens):
            self._open.discard(index)
        self._timer.saw(index, event, moment)
        return index, _raise_unless_good(event)

    def _post(self, index: int, event: Event) -> None:
        self._inbox.append((index, event, time.perf_counter()))
        if self._wake_is_due:
            return
        self._wake_is_due = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            # The loop is closed: the process is ending and no client waits for this answer.
            return

    def _wake(self) -> None:
        # Cleared before anyone looks into the inbox, so an event put in meanwhile wakes again.
        self._wake_is_due = False
        self._ready.set()

    async def _arrival(self) -> None:
        while not self._inbox:
            self._ready.clear()
            await self._ready.wait()


def _is_bad(event: Event) -> bool:
    # A cancel of ours is never read any more, so one that is read comes from the engine's end.
    is_cut = isinstance(event, Finished) and event.finish_reason == "cancelled"
    return is_cut or isinstance(event, Failed)


def _raise_unless_good(event: Event) -> Tokens | Finished:
    if isinstance(event, Failed):
        raise event.error
    if _is_bad(event):
        raise EngineStoppedError("the server is shutting down; the answer was cut off")
    return event
