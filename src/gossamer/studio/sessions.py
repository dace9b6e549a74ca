"""Who is logged in by a browser: a one-time token or an API key is traded for a cookie.

Of the cookie only the SHA-256 is kept. A session that a key has begun lives as long as that key,
and may what the key may at the moment. On calls that change something a cookie counts only where
the browser says that they come from this server's own page.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections import deque

from starlette.requests import HTTPConnection

from gossamer.jobs.store import JobStore
from gossamer.jobs.store.records import SessionRecord
from gossamer.serving.core.messages import DEFAULT_TENANT
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.origins import SAFE_METHODS
from gossamer.serving.key_ring import KeyRing
from gossamer.serving.keys import Caller

SESSION_SECONDS = 12 * 3600
FAILURES = 10
FAILURE_SECONDS = 60.0
"""With this many wrong keys or tokens within the time, an address has to wait."""

MAX_ADDRESSES = 10_000


class Sessions:
    """The sessions of one server. Not for the event loop, but for `cookie_of` and `may_count`."""

    def __init__(self, store: JobStore, *, token: str | None = None) -> None:
        """`token` opens one administrator's session, once."""
        self._store = store
        self._token = token
        self._lock = threading.Lock()
        self._failures: dict[str, deque[float]] = {}

    def log_in(self, secret: str, keys: KeyRing, address: str) -> tuple[str, Caller]:
        """Trade the token or a key for the text of a cookie; returns it, and who it is.

        Raises `ApiError` 401 for a wrong or used one, 429 after too many of them.
        """
        self._check_address(address)
        caller = self._trade(secret, keys)
        if caller is None:
            self._count_failure(address)
            raise ApiError(
                401,
                "wrong key, or a link that has been used already; start with the link that "
                "'gossamer studio' prints, or with a key of 'gossamer keys add'",
                code="invalid_api_key",
            )
        cookie, now = secrets.token_urlsafe(32), time.time()
        self._store.sessions.create(
            SessionRecord(
                hash=_digest(cookie),
                key_id=caller.key_id,
                tenant=caller.tenant,
                admin=caller.is_admin,
                created=now,
                expires=now + SESSION_SECONDS,
            )
        )
        return cookie, caller

    def find(self, cookie: str, keys: KeyRing) -> Caller | None:
        """Who has this cookie; None if it is unknown, past its time, or its key was revoked."""
        found = self._store.sessions.find(_digest(cookie), time.time())
        if found is None:
            return None
        if found.key_id is not None:
            return keys.find_id(found.key_id)
        return _owner_of_machine()

    def log_out(self, cookie: str) -> None:
        """End the session of this cookie."""
        self._store.sessions.end(_digest(cookie))

    def _trade(self, secret: str, keys: KeyRing) -> Caller | None:
        with self._lock:
            token = self._token
            if token is not None and hmac.compare_digest(token.encode(), secret.encode()):
                self._token = None
                return _owner_of_machine()
        return keys.find(secret.encode()) if keys.needs_key else None

    def _check_address(self, address: str) -> None:
        with self._lock:
            times = self._failures.get(address)
            now = time.monotonic()
            while times and times[0] < now - FAILURE_SECONDS:
                times.popleft()
            if times and len(times) >= FAILURES:
                raise ApiError(
                    429,
                    "too many wrong keys from this address; wait a minute",
                    code="too_many_attempts",
                    headers={"Retry-After": str(int(times[0] + FAILURE_SECONDS - now) + 1)},
                )

    def _count_failure(self, address: str) -> None:
        with self._lock:
            if address not in self._failures and len(self._failures) >= MAX_ADDRESSES:
                self._failures.pop(next(iter(self._failures)))
            self._failures.setdefault(address, deque(maxlen=FAILURES)).append(time.monotonic())


def cookie_name(call: HTTPConnection) -> str:
    """The name of the cookie, which holds the port: cookies are for all ports of a host."""
    server = call.scope.get("server")
    port = server[1] if server else None
    return f"gossamer-session-{port or 80}"


def cookie_of(call: HTTPConnection) -> str | None:
    """The cookie of a call if it counts for it; None if there is none."""
    found = call.cookies.get(cookie_name(call))
    return found if found and _may_count(call) else None


def _may_count(call: HTTPConnection) -> bool:
    if call.scope["method"] in SAFE_METHODS:
        return True
    # A browser always sends it there, unlike `Sec-Fetch-Site`, which comes over http to this
    # machine only.
    origin = call.headers.get("origin", "")
    return origin.partition("://")[2].lower() == call.headers.get("host", "").lower() != ""


def _owner_of_machine() -> Caller:
    return Caller(tenant=DEFAULT_TENANT, is_admin=True, may_train=True)


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
