"""A catalogue of the adapters as they were a moment ago.

Looking at thousands of folders takes a good part of a second, and a list of them that long is a
megabyte. One look serves all who ask meanwhile, and for a while after it that grows with what it
took: listing never takes more than a small part of one thread.
"""

import asyncio
import re
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from gossamer.errors import cut
from gossamer.serving.core.daemon_threads import DaemonThreads
from gossamer.serving.core.interface import EngineInterface
from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.http.errors import ApiError

T = TypeVar("T")

FRESH = 10.0
"""A list is used again for this multiple of the time that it took to make."""

MAX_RENDERED = 16
"""The most forms of the list that are kept, one for each set of adapters that a tenant may see."""

MAX_LISTED = 10_000
"""Adapters of one answer, as many as OpenAI's list of files has: with 10,000, some 3 MB."""

LOOKED_AT = 2000
"""Adapters that are asked of a `PagedEngine` at a time."""


@runtime_checkable
class PagedEngine(Protocol):
    """An engine that can list a part of its adapters without looking at the others."""

    def adapters_after(self, name: str, limit: int) -> list[AdapterStatus]:
        """List at most `limit` adapters in the order of names, from the first one after `name`.

        Raises `AdapterReadError`.
        """

    def adapters_near(self, model: str) -> list[AdapterStatus]:
        """List those of the parts of `model` that there are, and some with names like theirs.

        Raises `AdapterReadError`.
        """


@dataclass(frozen=True, slots=True)
class AdapterPageAsk:
    """Asks for a part of the list, in the order of names."""

    viewer: object
    """Who asks; those that are equal may see the same adapters."""
    after: str
    """The name after which it begins; empty: at the beginning."""
    limit: int
    """Adapters that are not refused, at most."""


def page_limit(text: str | None) -> int:
    """Read `limit` of a query, the most adapters that a page may have. Raises `ApiError` 400."""
    if text is None:
        return MAX_LISTED
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 1 <= int(text) <= MAX_LISTED:
        raise ApiError(
            400,
            f"'limit' = '{cut(text)}' must be a whole number of 1 to {MAX_LISTED}",
            code="invalid_value",
            param="limit",
        )
    return int(text)


@dataclass(frozen=True, slots=True)
class AdapterPage:
    """Shows a part of the list."""

    adapters: list[AdapterStatus]
    """In the order of names; those that are refused among them."""
    has_more: bool
    """Whether any follow that are not refused."""


class Catalogue:
    """Lists the adapters on one event loop; looks on a thread of its own, since a disk may hang."""

    def __init__(self, engine: EngineInterface) -> None:
        self._engine = engine
        self._threads = DaemonThreads("gossamer-catalogue")
        self._statuses: list[AdapterStatus] = []
        self._rendered: dict[object, Any] = {}
        self._good_until = 0.0
        self._looking: asyncio.Task[list[AdapterStatus]] | None = None
        self._pages: dict[AdapterPageAsk, tuple[float, Any]] = {}
        """Pages of a `PagedEngine`, each with the moment until which it is used again."""

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

    async def near(self, model: str) -> list[AdapterStatus]:
        """List the adapters among which `model`, which is unknown, may have been meant: all, but of
        a `PagedEngine` a few. Raises `AdapterReadError`."""
        if isinstance(self._engine, PagedEngine):
            return await self._run(self._engine.adapters_near, model)
        return await self.statuses()

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

    async def page(
        self,
        ask: AdapterPageAsk,
        may_see: Callable[[list[AdapterStatus]], list[AdapterStatus]],
        render: Callable[[AdapterPage], T],
    ) -> T:
        """Apply `render` to a part of the adapters of which `may_see` picks those for the viewer.

        Of a `PagedEngine` no more is looked at than it takes to fill the page. Raises
        `AdapterReadError`.
        """
        engine = self._engine
        if not isinstance(engine, PagedEngine):

            def cut(statuses: list[AdapterStatus]) -> T:
                seen = sorted(may_see(statuses), key=_name)
                return render(_page(seen[bisect_right(seen, ask.after, key=_name) :], ask.limit))

            return await self.rendered(ask, cut)

        def gather() -> T:
            # On one thread: those who have waited for another one's look find its page.
            good_until, known = self._pages.get(ask, (0.0, None))
            started = time.monotonic()
            if started < good_until:
                return cast(T, known)
            made = render(_gathered(engine, ask, may_see))
            ended = time.monotonic()
            if len(self._pages) >= MAX_RENDERED:
                self._pages.clear()
            self._pages[ask] = (ended + FRESH * (ended - started), made)
            return made

        return await self._run(gather)

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


def _gathered(
    engine: PagedEngine,
    ask: AdapterPageAsk,
    may_see: Callable[[list[AdapterStatus]], list[AdapterStatus]],
) -> AdapterPage:
    """Look at adapters until the page is full and one more is known, or there are no more."""
    found: list[AdapterStatus] = []
    after, count = ask.after, 0
    while count <= ask.limit:
        looked_at = min(LOOKED_AT, ask.limit + 1)
        adapters = engine.adapters_after(after, looked_at)
        seen = may_see(adapters)
        found += seen
        count += sum(map(_is_served, seen))
        if len(adapters) < looked_at:
            break
        after = adapters[-1].name
    return _page(found, ask.limit)


def _page(adapters: list[AdapterStatus], limit: int) -> AdapterPage:
    """The first of `adapters`, of which `limit` are not refused."""
    count = end = 0
    for number, adapter in enumerate(adapters):
        if not _is_served(adapter):
            continue
        count += 1
        if count > limit:
            # Refused ones behind its last name are the next page's, which begins after that name.
            return AdapterPage(adapters[:end], True)
        end = number + 1
    return AdapterPage(adapters, False)


def _is_served(adapter: AdapterStatus) -> bool:
    return adapter.state != "refused"


def _name(adapter: AdapterStatus) -> str:
    return adapter.name
