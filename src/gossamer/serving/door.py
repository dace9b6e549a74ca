"""Who is let in: not more than may wait, nobody beyond a quota, nobody after closing time."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gossamer.errors import EngineStoppedError, OverloadedError, QuotaError
from gossamer.serving.messages import Request
from gossamer.serving.scheduling.accounts import Accounts
from gossamer.serving.scheduling.quotas import Quotas
from gossamer.serving.scheduling.tenants import LimitsOf, unlimited


class Door:
    """Judges requests when they come. `enter` is called under the engine's lock."""

    def __init__(
        self,
        max_waiting: int,
        accounts: Accounts,
        limits_of: LimitsOf = unlimited,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_waiting = max_waiting
        self._accounts = accounts
        self._clock = clock
        self._quotas = Quotas(limits_of, clock)
        self._left: deque[float] = deque(maxlen=32)
        self.is_open = True

    def enter(self, request: Request, num_waiting: int) -> None:
        """Count `request` in, with `num_waiting` in the queue already.

        Raises `EngineStoppedError`, `OverloadedError` or `QuotaError`, and counts nothing then.
        """
        self._check_queue(request.tenant, 0, num_waiting)
        with self._refusals_of(request.tenant):
            self._quotas.enter(request.tenant, len(request.prompt_token_ids))

    def check(self, tenant: str, *, own: int, num_waiting: int) -> None:
        """Raise what `enter` would raise for a small request, with `own` more of the tenant on
        their way, which are among the `num_waiting`."""
        self._check_queue(tenant, own, num_waiting)
        with self._refusals_of(tenant):
            self._quotas.check(tenant, own)

    def spend(self, tenant: str, tokens: int) -> None:
        """New tokens of `tenant` have been generated."""
        self._quotas.spend(tenant, tokens)
        self._accounts.of(tenant).generated_tokens += tokens

    def leave(self, tenant: str) -> None:
        """A request of `tenant` has ended."""
        self._left.append(self._clock())
        self._quotas.leave(tenant)

    def _check_queue(self, tenant: str, own: int, num_waiting: int) -> None:
        if not self.is_open:
            raise EngineStoppedError("the server is shutting down")
        if num_waiting >= self._max_waiting and not self._is_below_share(tenant, own):
            self._accounts.refuse(tenant, "queue")
            raise OverloadedError(
                f"{num_waiting} requests are waiting already; try again later",
                retry_after=self._seconds_for(num_waiting),
            )

    @contextmanager
    def _refusals_of(self, tenant: str) -> Iterator[None]:
        try:
            yield
        except QuotaError:
            self._accounts.refuse(tenant, "quota")
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
