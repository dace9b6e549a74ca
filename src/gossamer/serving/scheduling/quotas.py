"""Quotas of tenants, judged when a request comes: how many at a time, how many tokens a minute."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from gossamer.errors import QuotaError
from gossamer.serving.scheduling.tenants import LimitsOf, TenantLimits


@dataclass(slots=True)
class _Bucket:
    """Tokens that may be used now; grows by the limit in a minute, up to the limit."""

    tokens: float
    filled: float


class Quotas:
    """What each tenant uses. May be called from any thread."""

    def __init__(self, limits_of: LimitsOf, clock: Callable[[], float]) -> None:
        self._limits_of = limits_of
        self._clock = clock
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        self._buckets: dict[str, _Bucket] = {}

    def enter(self, tenant: str, prompt_tokens: int) -> None:
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
        """A request that was counted in has ended."""
        with self._lock:
            self._in_flight[tenant] -= 1
            if not self._in_flight[tenant]:
                del self._in_flight[tenant]

    def spend(self, tenant: str, tokens: int) -> None:
        """New tokens have been generated; what exceeds the limit is owed."""
        limit = self._limits_of(tenant).tokens_per_minute
        if limit is not None:
            with self._lock:
                self._bucket(tenant, limit).tokens -= tokens

    def in_flight(self, tenant: str) -> int:
        """Requests that wait or run."""
        return self._in_flight[tenant]

    def num_tenants(self) -> int:
        """Tenants that have any."""
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
