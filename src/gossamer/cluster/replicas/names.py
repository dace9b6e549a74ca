"""What names mean, from the catalog, as an ingress asks for each request."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from gossamer.cluster.published.catalog import AdapterCatalog, PublishedAdapter
from gossamer.errors import (
    AdapterReadError,
    StorageError,
    UnknownModelError,
    unknown_name_message,
)
from gossamer.serving.core.adapter import AdapterEntry, AnyAdapter, Blend, adapters_in, parse_blend
from gossamer.serving.core.adapter_state import AdapterFacts
from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.store.folder import is_plain

log = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
"""A change of the catalog is seen after so long at most, and the time of one question."""
MAX_ASKED = 5000
"""Names whose requests are told to the catalog at a time: those that are asked for most."""
MAX_KNOWN = 50_000
"""Names whose meaning is remembered."""
PAGE = 2000
_AWAY = "the catalog of adapters cannot be asked now; try again"


class Names(Protocol):
    """Tells an ingress what names mean; any thread may ask, and each call may wait for a disk."""

    @property
    def how_to_add(self) -> str:
        """Return what to do instead of loading an adapter through an ingress."""

    def look_up(self, name: str) -> AnyAdapter:
        """Find the adapter `name`, or a mixture. Raises as `EngineInterface.look_up`'s future."""

    def statuses(self) -> list[AdapterStatus]:
        """List all adapters that have a name. Raises `AdapterReadError`."""

    def statuses_after(self, name: str, limit: int) -> list[AdapterStatus]:
        """List at most `limit` of them in the order of names, from the first one after `name`."""

    def statuses_near(self, model: str) -> list[AdapterStatus]:
        """List those of the parts of `model` that there are, and some with names like theirs."""

    def status(self, name: str) -> AdapterStatus:
        """Show what `name` means. Raises as `look_up`."""

    def count(self) -> int:
        """Count the adapters that have a name. Raises `AdapterReadError`."""

    def note_asked(self, name: str) -> None:
        """Count a request for the adapter `name`; does not wait."""

    def tell_asked(self) -> None:
        """Tell others which adapters were asked for since the last call. Raises `StorageError`."""

    def close(self) -> None:
        """End all connections."""


class CatalogNames:
    """Finds adapters by name; remembers what it found until the catalog changes, and while the
    catalog cannot be asked.

    Any thread may ask; each call may wait for the database.
    """

    how_to_add = "adapters of a cluster are published with `gossamer cluster publish`"
    """What to do instead of loading one through an ingress."""

    def __init__(
        self,
        catalog: AdapterCatalog | None,
        base: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`base` is the base model's name; no catalog: there are no adapters."""
        self._catalog, self._base, self._clock = catalog, base, clock
        self._lock = threading.Lock()
        self._known: dict[str, PublishedAdapter | None] = {}
        self._asked: Counter[str] = Counter()
        """Requests that the catalog was not told of yet."""
        self._version = -1
        self._good_until = float("-inf")
        self._is_away = False
        """Whether the last question for changes had no answer."""
        self._refreshing = threading.Lock()
        """Held by the one who asks for changes; the others go on with what is known."""

    def look_up(self, name: str) -> AnyAdapter:
        """Find the adapter `name`, or a mixture of several.

        Raises `UnknownModelError`, `RequestError` for a mixture that makes no sense, or
        `AdapterReadError` if it is not remembered and the catalog cannot be asked (try again).
        """
        parts = parse_blend(name)
        if parts is None:
            return self._entry(name)
        entries = tuple(self._entry(part) for part, _ in parts)
        blend = Blend(entries, tuple(weight for _, weight in parts))
        if blend.error is not None:
            raise blend.error.with_traceback(None)
        return blend

    def find(self, name: str) -> PublishedAdapter | None:
        """Return what `name` means; None if nothing."""
        if self._catalog is None or name == self._base or not is_plain(name):
            return None
        self._refresh(self._catalog)
        with self._lock:
            version = self._version
            if name in self._known:
                return self._known[name]
            is_away = self._is_away
        if is_away:
            # Each question might wait for as long as the last one.
            raise AdapterReadError(_AWAY)
        with _asking():
            found = self._catalog.find(name)
        with self._lock:
            # What was read may be older than a change that was seen meanwhile.
            if version == self._version:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[name] = found
        return found

    def note_asked(self, name: str) -> None:
        """Count a request for the adapter `name`; does not wait."""
        with self._lock:
            self._asked[name] += 1

    def tell_asked(self) -> None:
        """Tell the catalog which adapters were asked for since the last call, so that replicas that
        start know what to load. Raises `StorageError`; then they are not counted."""
        with self._lock:
            asked, self._asked = self._asked, Counter()
        if self._catalog is not None:
            self._catalog.asked.add(dict(asked.most_common(MAX_ASKED)))

    def statuses(self) -> list[AdapterStatus]:
        """List all adapters that have a name."""
        if self._catalog is None:
            return []
        found: list[AdapterStatus] = []
        with _asking():
            while page := self._catalog.page(found[-1].name if found else "", PAGE):
                found += map(_status, page)
        return found

    def statuses_after(self, name: str, limit: int) -> list[AdapterStatus]:
        """List at most `limit` adapters in the order of names, from the first one after `name`."""
        if self._catalog is None:
            return []
        with _asking():
            return [_status(found) for found in self._catalog.page(name, limit)]

    def statuses_near(self, model: str) -> list[AdapterStatus]:
        """List those of the parts of `model` that there are, and some with names like theirs."""
        if self._catalog is None:
            return []
        found: dict[str, PublishedAdapter] = {}
        with _asking():
            for part in adapters_in(model):
                exact = self.find(part)
                alike = self._catalog.like(part)
                found.update({each.name: each for each in (exact, *alike) if each is not None})
        return list(map(_status, found.values()))

    def status(self, name: str) -> AdapterStatus:
        """Show what `name` means. Raises `UnknownModelError`."""
        found = self.find(name)
        if found is None:
            raise self._unknown(name)
        return _status(found)

    def count(self) -> int:
        """Count the adapters that have a name."""
        with _asking():
            return 0 if self._catalog is None else self._catalog.count()

    def close(self) -> None:
        """Close the connections to the catalog."""
        if self._catalog is not None:
            self._catalog.close()

    def _entry(self, name: str) -> AdapterEntry:
        found = self.find(name)
        if found is None:
            raise self._unknown(name)
        return entry_of(found)

    def _unknown(self, name: str) -> UnknownModelError:
        with _asking():
            known = [] if self._catalog is None else self._catalog.names_like(name)
        return UnknownModelError(unknown_name_message("model", name, [self._base, *known]))

    def _refresh(self, catalog: AdapterCatalog) -> None:
        if self._clock() < self._good_until or not self._refreshing.acquire(blocking=False):
            return
        try:
            asked, is_away = self._clock(), False
            try:
                version = catalog.version()
            except StorageError as error:
                # Names that are remembered mean what they meant until the catalog is back.
                log.warning("names are not looked up again: %s", error)
                # The question may have taken longer than its answer would have been good.
                version, asked, is_away = self._version, self._clock(), True
            with self._lock:
                if version != self._version:
                    self._version, self._known = version, {}
                self._good_until, self._is_away = asked + FRESH_SECONDS, is_away
        finally:
            self._refreshing.release()


@contextmanager
def _asking() -> Iterator[None]:
    """Tell callers to try again where the catalog cannot be asked; where it is, is not theirs to
    know."""
    try:
        yield
    except StorageError as error:
        log.warning("%s", error)
        raise AdapterReadError(_AWAY) from error


def entry_of(found: PublishedAdapter) -> AdapterEntry:
    """Make what a request holds of an adapter that other processes serve. It knows the digest; its
    path is the place in the store."""
    published = int(found.published * 1e9)
    entry = AdapterEntry(
        name=found.name,
        path=Path(found.place),
        signature=((0, found.num_bytes, published),),
    )
    entry.learn(
        AdapterFacts(
            digest=found.digest,
            num_blocks=0,
            num_bytes=found.num_bytes,
            rank=found.rank,
            kind=found.kind,
        )
    )
    return entry


def _status(found: PublishedAdapter) -> AdapterStatus:
    return AdapterStatus(
        name=found.name,
        state="registered",
        kind=found.kind,
        rank=found.rank,
        num_bytes=found.num_bytes,
        digest=found.digest,
        created=int(found.published),
    )
