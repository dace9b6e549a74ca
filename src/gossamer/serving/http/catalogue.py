"""A catalogue of the adapters as they were a moment ago.

Looking at thousands of folders takes a good part of a second, and a list of them that long is a
megabyte. One look serves all who ask meanwhile, and for a while after it that grows with what it
took: listing never takes more than a small part of one thread.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from gossamer.serving.core.daemon_threads import DaemonThreads
from gossamer.serving.core.interface import EngineInterface
from gossamer.serving.core.stats import AdapterStatus

T = TypeVar("T")

FRESH = 10.0
"""A list is used again for this multiple of the time that it took to make."""

MAX_RENDERED = 16
"""The most forms of the list that are kept, one for each set of adapters that a tenant may see."""


class Catalogue:
    """Lists the adapters on one event loop; looks on a thread of its own, since a disk may hang."""

    def __init__(self, engine: EngineInterface) -> None:
        self._engine = engine
        self._threads = DaemonThreads("gossamer-catalogue")
        self._statuses: list[AdapterStatus] = []
        self._rendered: dict[object, Any] = {}
        self._good_until = 0.0
        self._looking: asyncio.Task[list[AdapterStatus]] | None = None

    async def statuses(self) -> list[AdapterStatus]:
        """All adapters that can be named, refused ones included. Raises `AdapterReadError`."""
        if time.monotonic() < self._good_until:
            return self._statuses
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())
            # Retrieved even if all who asked have left.
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        # A caller that leaves must not end it for the others.
        return await asyncio.shield(self._looking)

    async def rendered(self, key: object, render: Callable[[list[AdapterStatus]], T]) -> T:
        """Apply `render` to all adapters that can be named, once for each `key`."""
        statuses = await self.statuses()
        if statuses is not self._statuses:
            return await self._run(render, statuses)
        if key not in self._rendered:
            found = await self._run(render, statuses)
            if statuses is not self._statuses or len(self._rendered) >= MAX_RENDERED:
                return found
            self._rendered[key] = found
        return cast(T, self._rendered[key])

    def forget(self) -> None:
        """Look again at the next question: something has been changed through this server."""
        self._good_until = 0.0
        self._looking = None

    def close(self) -> None:
        """End the thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look(self) -> list[AdapterStatus]:
        started = time.monotonic()
        this = asyncio.current_task()
        try:
            statuses = await self._run(self._engine.adapters)
            if self._looking is this:
                ended = time.monotonic()
                self._good_until = ended + FRESH * (ended - started)
                self._statuses, self._rendered = statuses, {}
            return statuses
        finally:
            if self._looking is this:
                self._looking = None

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.wrap_future(self._threads.submit(work, *args))
