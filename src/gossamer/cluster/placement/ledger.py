"""Quotas of tenants over several servers: one ledger has the tokens, servers lease some of them.

A server asks the ledger for about a second's worth of a tenant's tokens and then judges requests by
itself. What all servers let in together is at most what one would have, and a lease for each.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gossamer.errors import QuotaError
from gossamer.serving.core.tenants import LimitsOf, TenantLimits

LEASE_SECONDS = 1.0
"""A lease is what the tenant may use in this time; so old a count of others' requests may be."""
GONE_SECONDS = 10.0
"""A server that was not heard of for so long holds no requests any more."""
LOST_SECONDS = 5.0
"""After a call that failed, the ledger is not asked again for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """Asks the ledger for tokens of one tenant, and tells what the server has of it."""

    server: str
    tenant: str
    per_minute: int | None
    """The tenant's limit; None: tokens are not limited."""
    owed: float
    """Tokens that were used beyond the lease before."""
    want: float
    """Tokens to lease."""
    least: float
    """With fewer than this the request that asks cannot start, and needs none."""
    in_flight: int
    """The tenant's requests on this server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Answers a `LeaseRequest`."""

    tokens: float
    """What the server may use now."""
    wait: float
    """Seconds until there would be `least`; 0 if that was given."""
    others: int
    """The tenant's requests on other servers."""
    servers: int
    """Servers that were heard of lately, this one included."""


@dataclass(slots=True)
class _Account:
    tokens: float
    filled: float


class QuotaLedger:
    """Has the tokens of all tenants. Not for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._heard: dict[str, float] = {}
        self._in_flight: dict[str, dict[str, int]] = {}
        """The requests of each tenant by server."""

    def lease(self, requests: Sequence[LeaseRequest]) -> list[Lease]:
        """Give tokens for each of them, all that are wanted if there are."""
        return [self._lease(request) for request in requests]

    def _lease(self, request: LeaseRequest) -> Lease:
        now = self._clock()
        self._heard[request.server] = now
        self._forget_gone(now)
        counts = self._in_flight.setdefault(request.tenant, {})
        counts[request.server] = request.in_flight
        others = sum(counts.values()) - request.in_flight
        tokens = wait = 0.0
        if request.per_minute is not None:
            tokens, wait = self._take(request, request.per_minute, now)
        return Lease(tokens=tokens, wait=wait, others=others, servers=len(self._heard))

    def _take(self, request: LeaseRequest, per_minute: int, now: float) -> tuple[float, float]:
        account = self._accounts.setdefault(request.tenant, _Account(per_minute, now))
        grown = account.tokens + (now - account.filled) * per_minute / 60
        account.tokens, account.filled = min(grown, float(per_minute)) - request.owed, now
        if account.tokens < request.least:
            return 0.0, 60 * (request.least - account.tokens) / per_minute
        given = max(0.0, min(request.want, account.tokens))
        account.tokens -= given
        return given, 0.0

    def _forget_gone(self, now: float) -> None:
        gone = {server for server, at in self._heard.items() if now - at > GONE_SECONDS}
        for server in gone:
            del self._heard[server]
            for counts in self._in_flight.values():
                counts.pop(server, None)


Ask = Callable[[Sequence[LeaseRequest]], Sequence[Lease] | None]
"""Asks the ledger for several tenants at once, and waits for it; None: it does not answer."""


@dataclass(slots=True)
class _Held:
    """What a server has of one tenant."""

    tokens: float = 0.0
    """Negative: used beyond what was leased."""
    others: int = 0
    asked: float = float("-inf")
    blocked_until: float = float("-inf")
    is_told: bool = True
    """Whether the ledger knows that no request of the tenant runs here."""


class QuotaLeases:
    """Judges the requests of one server by what it has leased. Any thread may call.

    Without the ledger, each tenant may use its limit divided by the servers that there were.
    """

    def __init__(
        self,
        server: str,
        limits_of: LimitsOf,
        ask: Ask,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server, self._limits_of, self._ask, self._clock = server, limits_of, ask, clock
        self._lock = threading.Lock()
        """Held for moments, while numbers are read and changed."""
        self._asking = threading.Lock()
        """Held while the ledger is asked: one question at a time."""
        self._in_flight: Counter[str] = Counter()
        self._held: dict[str, _Held] = {}
        self._servers = 1
        self._lost_until = float("-inf")
        self._alone: QuotaLedger | None = None

    def check(self, tenant: str, more: int) -> None:
        """Raise `QuotaError` if it is known already that a small request would be refused, with
        `more` of the tenant's on their way. Does not ask the ledger."""
        limits = self._limits_of(tenant)
        with self._lock:
            held = self._held.get(tenant, _Held())
            self._check_number(tenant, limits, held, more)
            wait = held.blocked_until - self._clock()
            if limits.tokens_per_minute is not None and held.tokens < 1 and wait > 0:
                raise _used_up(tenant, limits.tokens_per_minute, 1, wait)

    def admit(self, tenant: str, prompt_tokens: int) -> None:
        """Count a request in; raise `QuotaError`, and count nothing, if it is one too many.

        May wait for the ledger. A prompt longer than a minute's tokens waits for a full minute's
        worth and is then owed.
        """
        limits = self._limits_of(tenant)
        if not _limited(limits):
            with self._lock:
                self._in_flight[tenant] += 1
            return
        with self._asking:
            self._lease(tenant, limits, prompt_tokens)
            with self._lock:
                held = self._held[tenant]
                self._check_number(tenant, limits, held)
                if limits.tokens_per_minute is not None:
                    held.tokens -= prompt_tokens
                self._in_flight[tenant] += 1
                held.is_told = False

    def spend(self, tenant: str, tokens: int) -> None:
        """Count new tokens; what exceeds the lease is owed."""
        if self._limits_of(tenant).tokens_per_minute is not None:
            with self._lock:
                self._held.setdefault(tenant, _Held()).tokens -= tokens

    def leave(self, tenant: str) -> None:
        """Count a request out that has ended."""
        with self._lock:
            self._in_flight[tenant] -= 1
            if not self._in_flight[tenant]:
                del self._in_flight[tenant]

    def refresh(self) -> None:
        """Tell the ledger of the requests that run and of what is owed; called once a second. May
        wait for the ledger, once for all tenants: those that are admitted meanwhile wait too."""
        with self._lock:
            tenants = list(self._held)
        limits = {tenant: self._limits_of(tenant) for tenant in tenants}
        with self._asking:
            requests = [
                self._request(tenant, limits[tenant].tokens_per_minute, 0.0, 0)
                for tenant in tenants
                if _limited(limits[tenant]) and self._has_news(tenant)
            ]
            if requests:
                self._exchange(requests)

    def _has_news(self, tenant: str) -> bool:
        """Whether there is something to tell of a tenant, or to learn."""
        with self._lock:
            held = self._held[tenant]
            is_busy = self._in_flight[tenant] > 0 or held.tokens < 0 or held.others > 0
            return is_busy or not held.is_told

    def _lease(self, tenant: str, limits: TenantLimits, prompt_tokens: int) -> None:
        """Have enough tokens for the prompt, and know of others' requests; else `QuotaError`."""
        now, per_minute = self._clock(), limits.tokens_per_minute
        need = 0.0 if per_minute is None else float(min(prompt_tokens, per_minute))
        with self._lock:
            held = self._held.setdefault(tenant, _Held())
            is_known = limits.max_in_flight is None or now - held.asked < LEASE_SECONDS
            if is_known and (per_minute is None or held.tokens >= need):
                return
        (lease,) = self._exchange([self._request(tenant, per_minute, need, 1)])
        held.blocked_until = now + lease.wait
        if per_minute is not None and held.tokens < need:
            raise _used_up(tenant, per_minute, prompt_tokens, lease.wait)

    def _request(self, tenant: str, per_minute: int | None, need: float, more: int) -> LeaseRequest:
        """Ask for what is needed and a little besides; `more` requests are about to be counted in,
        if they are not refused."""
        with self._lock:
            held = self._held[tenant]
            owed = max(0.0, -held.tokens)
            least = max(0.0, need - max(0.0, held.tokens))
            in_flight = self._in_flight[tenant] + more
        besides = 0.0 if per_minute is None or least == 0 else per_minute * LEASE_SECONDS / 60
        return LeaseRequest(
            server=self._server,
            tenant=tenant,
            per_minute=per_minute,
            owed=owed,
            want=least + besides,
            least=least,
            in_flight=in_flight,
        )

    def _exchange(self, requests: Sequence[LeaseRequest]) -> Sequence[Lease]:
        """Pay what is owed, lease, tell and learn of requests.

        The numbers are not locked meanwhile: those who spend and leave must not wait for the
        ledger.
        """
        leases = self._asked(requests)
        with self._lock:
            for request, lease in zip(requests, leases, strict=True):
                held = self._held[request.tenant]
                held.tokens += request.owed + lease.tokens
                held.others, held.asked = lease.others, self._clock()
                # One that was told and is then refused must be taken back by the next refresh.
                held.is_told = self._alone is None and request.in_flight == 0
        return leases

    def _asked(self, requests: Sequence[LeaseRequest]) -> Sequence[Lease]:
        if self._clock() >= self._lost_until:
            leases = self._ask(requests)
            if leases is not None:
                self._servers, self._alone = leases[-1].servers, None
                return leases
            self._lost_until = self._clock() + LOST_SECONDS
        if self._alone is None:
            self._alone = QuotaLedger(self._clock)
        return self._alone.lease([self._part_of(request) for request in requests])

    def _part_of(self, request: LeaseRequest) -> LeaseRequest:
        """What this server may ask for alone: its part of the tenant's limit."""
        share = request.per_minute
        if share is not None:
            share = max(1, share // self._servers)
            # What is more than this part of a minute's tokens could never be had.
            least = min(request.least, float(share))
            request = replace(request, per_minute=share, least=least)
        return request

    def _check_number(self, tenant: str, limits: TenantLimits, held: _Held, more: int = 0) -> None:
        count = self._in_flight[tenant] + held.others + more
        if limits.max_in_flight is not None and count >= limits.max_in_flight:
            raise QuotaError(
                f"tenant '{tenant}' has {count} requests in flight and may have "
                f"{limits.max_in_flight}; wait for one to end",
                retry_after=1.0,
            )


def _limited(limits: TenantLimits) -> bool:
    return limits.tokens_per_minute is not None or limits.max_in_flight is not None


def _used_up(tenant: str, per_minute: int, prompt_tokens: int, wait: float) -> QuotaError:
    wait = max(wait, 0.1)
    return QuotaError(
        f"tenant '{tenant}' has used up its {per_minute} tokens per minute; this prompt of "
        f"{prompt_tokens} tokens may be sent in {wait:.0f} s",
        retry_after=wait,
    )
