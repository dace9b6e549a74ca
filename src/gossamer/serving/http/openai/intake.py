"""Counts calls on their way to the engine, while bodies are read and prompts encoded.

They count before any work is done for them, against the same limits as in the engine; and the bytes
of all bodies that are held at a time are bounded, with what is kept of them for the reply.
"""

import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gossamer.serving.core.interface import EngineInterface
from gossamer.serving.core.messages import DEFAULT_TENANT
from gossamer.serving.http.errors import ApiError

SHARE_OF_TENANT = 0.5
"""The largest share of the room for bodies that one tenant may take."""


class Intake:
    """Counts all calls of one server that are on their way to the engine, and their bytes."""

    def __init__(self, engine: EngineInterface, max_bytes: int) -> None:
        self._engine = engine
        self._max_bytes = max_bytes
        # Calls are entered and left on the event loop, moved on from a thread. What they keep is
        # counted from threads, and given back in whichever lets it go.
        self._lock = threading.RLock()
        self._calls: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def enter(self, tenant: str) -> Iterator["IncomingCall"]:
        """Count a call of `tenant` until it is submitted or given up.

        Raises what the engine would raise if it came there now with a prompt of one token.
        """
        with self._lock:
            total = self._calls.total()
            self._engine.check_entry(tenant, own=self._calls[tenant], others=total)
            self._calls[tenant] += 1
        incoming = IncomingCall(self, tenant)
        try:
            yield incoming
        finally:
            incoming.move_on()
            self._give_back(tenant, incoming.num_bytes)

    def leave(self, tenant: str) -> None:
        """Stop counting a call of `tenant`."""
        with self._lock:
            self._calls[tenant] -= 1
            if not self._calls[tenant]:
                del self._calls[tenant]

    def take(self, tenant: str, count: int) -> None:
        """Hold `count` more bytes. Raises `ApiError` 503 if there is no room for them now."""
        limit = self._max_bytes
        own = limit if tenant == DEFAULT_TENANT else int(limit * SHARE_OF_TENANT)
        with self._lock:
            has_room = self._bytes.total() + count <= limit and self._bytes[tenant] + count <= own
            if has_room:
                self._bytes[tenant] += count
        if not has_room:
            raise ApiError(
                503,
                f"the bodies of requests that are held take {limit / 2**20:.3g} MiB already; "
                "try again later, or serve with more --max-bodies-mib",
                code="too_many_bodies",
                headers={"Retry-After": "1"},
            )

    def keep(self, owner: object, tenant: str, count: int) -> None:
        """Count `count` bytes of a body that was let in, until `owner`, which holds them, is gone.

        They are never refused; later bodies are, while there is no room.
        """
        with self._lock:
            self._bytes[tenant] += count
        weakref.finalize(owner, self._give_back, tenant, count).atexit = False

    def _give_back(self, tenant: str, count: int) -> None:
        with self._lock:
            self._bytes[tenant] -= count
            if not self._bytes[tenant]:
                del self._bytes[tenant]


class IncomingCall:
    """One call on its way to the engine."""

    def __init__(self, intake: Intake, tenant: str) -> None:
        self._intake = intake
        self.tenant = tenant
        self.num_bytes = 0
        self._is_here = True

    def hold(self, count: int) -> None:
        """Note that `count` bytes of the call's body have come."""
        self._intake.take(self.tenant, count)
        self.num_bytes += count

    def move_on(self) -> None:
        """Leave the call to the engine's count. From any thread, but from one at a time."""
        if self._is_here:
            self._is_here = False
            self._intake.leave(self.tenant)
