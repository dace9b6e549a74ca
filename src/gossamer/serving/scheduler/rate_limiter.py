"""Decides which requests are let in: by queue length, by quotas, and none at the end."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gossamer.errors import EngineStoppedError, OverloadedError, QuotaError
from gossamer.serving.core.messages import Request
from gossamer.serving.core.tenants import LimitsOf, TenantLimits, unlimited
from gossamer.serving.scheduler.usage import TenantUsage


@dataclass(slots=True)
class _Bucket:
    """Tokens that may be used now; grows by the limit in a minute, up to the limit."""

    tokens: float
    filled: float


class Quotas:
    """Counts what each tenant uses. May be called from any thread."""

    def __init__(self, limits_of: LimitsOf, clock: Callable[[], float]) -> None:
        self._limits_of = limits_of
        self._clock = clock
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        self._buckets: dict[str, _Bucket] = {}

    def admit(self, tenant: str, prompt_tokens: int) -> None:
        """Count a request in; raise `QuotaError`, and count nothing, if it is one too many.

        A prompt longer than a minute's tokens waits for a full minute's worth and is then owed.
        """
        limits = self._limits_of(tenant)
        with self._lock:
            self._check_number(tenant, limits)
            if limits.tokens_per_minute is not None:
                bucket = self._bucket(tenant, limits.tokens_per_minute)
                self._check_tokens(tenant, bucket, prompt_tokens, limits.tokens_per_minute)
                bucket.tokens -= prompt_tokens
            self._in_flight[tenant] += 1

    def check(self, tenant: str, more: int) -> None:
        """Raise `QuotaError` if a request of one token were one too many, with `more` of the
        tenant's counted beside those that were counted in."""
        limits = self._limits_of(tenant)
        with self._lock:
            self._check_number(tenant, limits, more)
            if limits.tokens_per_minute is not None:
                bucket = self._bucket(tenant, limits.tokens_per_minute)
                self._check_tokens(tenant, bucket, 1, limits.tokens_per_minute)

    def leave(self, tenant: str) -> None:
        """Count a request out that has ended."""
        with self._lock:
            self._in_flight[tenant] -= 1
            if not self._in_flight[tenant]:
                del self._in_flight[tenant]

    def spend(self, tenant: str, tokens: int) -> None:
        """Count new tokens; what exceeds the limit is owed."""
        limit = self._limits_of(tenant).tokens_per_minute
        if limit is not None:
            with self._lock:
                self._bucket(tenant, limit).tokens -= tokens

    def in_flight(self, tenant: str) -> int:
        """Return how many requests of `tenant` wait or run."""
        return self._in_flight[tenant]

    def num_tenants(self) -> int:
        """Return how many tenants have requests."""
        return len(self._in_flight)

    def _check_number(self, tenant: str, limits: TenantLimits, more: int = 0) -> None:
        count = self._in_flight[tenant] + more
        if limits.max_in_flight is not None and count >= limits.max_in_flight:
            raise QuotaError(
                f"tenant '{tenant}' has {count} requests in flight and may have "
                f"{limits.max_in_flight}; wait for one to end",
                retry_after=1.0,
            )

    def _check_tokens(
        self, tenant: str, bucket: _Bucket, prompt_tokens: int, per_minute: int
    ) -> None:
        short = min(prompt_tokens, per_minute) - bucket.tokens
        if short > 0:
            raise QuotaError(
                f"tenant '{tenant}' has used up its {per_minute} tokens per minute; this prompt of "
                f"{prompt_tokens} tokens may be sent in {60 * short / per_minute:.0f} s",
                retry_after=60 * short / per_minute,
            )

    def _bucket(self, tenant: str, per_minute: int) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(tenant, _Bucket(per_minute, now))
        grown = bucket.tokens + (now - bucket.filled) * per_minute / 60
        bucket.tokens, bucket.filled = min(grown, float(per_minute)), now
        return bucket


class RateLimiter:
    """Judges requests when they come. `admit` is called under the engine's lock."""

    def __init__(
        self,
        max_waiting: int,
        usage: TenantUsage,
        limits_of: LimitsOf = unlimited,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_waiting = max_waiting
        self._usage = usage
        self._clock = clock
        self._quotas = Quotas(limits_of, clock)
        self._left: deque[float] = deque(maxlen=32)
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Tell whether requests are let in at all."""
        return self._is_open

    def close(self) -> None:
        """Let no more requests in."""
        self._is_open = False

    def admit(self, request: Request, num_waiting: int) -> None:
        """Count `request` in, with `num_waiting` in the queue already.

        Raises `EngineStoppedError`, `OverloadedError` or `QuotaError`, and counts nothing then.
        """
        self._check_queue(request.tenant, 0, num_waiting)
        with self._refusals_of(request.tenant):
            self._quotas.admit(request.tenant, len(request.prompt_token_ids))

    def check(self, tenant: str, *, own: int, num_waiting: int) -> None:
        """Raise what `admit` would raise for a small request, with `own` more of the tenant on
        their way, which are among the `num_waiting`."""
        self._check_queue(tenant, own, num_waiting)
        with self._refusals_of(tenant):
            self._quotas.check(tenant, own)

    def spend(self, tenant: str, tokens: int) -> None:
        """Count new tokens of `tenant`."""
        self._quotas.spend(tenant, tokens)
        self._usage.of(tenant).generated_tokens += tokens

    def leave(self, tenant: str) -> None:
        """Count a request of `tenant` out that has ended."""
        self._left.append(self._clock())
        self._quotas.leave(tenant)

    def _check_queue(self, tenant: str, own: int, num_waiting: int) -> None:
        if not self._is_open:
            raise EngineStoppedError("the server is shutting down")
        if num_waiting >= self._max_waiting and not self._is_below_share(tenant, own):
            self._usage.refuse(tenant, "queue")
            raise OverloadedError(
                f"{num_waiting} requests are waiting already; try again later",
                retry_after=self._seconds_for(num_waiting),
            )

    @contextmanager
    def _refusals_of(self, tenant: str) -> Iterator[None]:
        try:
            yield
        except QuotaError:
            self._usage.refuse(tenant, "quota")
            raise

    def _is_below_share(self, tenant: str, own: int) -> bool:
        """Whether others fill the queue: one tenant's flood must not shut others out."""
        own += self._quotas.in_flight(tenant)
        others = self._quotas.num_tenants() - (own > 0)
        return others > 0 and own < self._max_waiting / (others + 1)

    def _seconds_for(self, count: int) -> float:
        """Seconds in which `count` requests ended lately; 1 at least."""
        times = self._left
        if len(times) < 2:
            return 1.0
        return max(1.0, count * (times[-1] - times[0]) / (len(times) - 1))
