"""Keeps a promise on the first token under overload (S-LoRA, arXiv 2311.03285, early abort).

Two means, both idle while no promise (SLO) is set. While requests of a tenant arrive faster than
they can be started the newest goes first: it is in time, whereas in order of arrival all would be
late. And who cannot be in time any more is refused, with a hint when to come back. The released
S-LoRA takes half a second for a prompt; here times are predicted from measured steps, for the whole
queue ahead, so that most refusals come on arrival and not after a useless wait.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from gossamer.errors import OverloadedError
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.scheduler.forecast import Forecast, Load
from gossamer.serving.scheduler.queue import TenantQueue, WaitingQueue

FORMER = 0.7
"""Weight of former rounds in the means of arrivals and starts, as in the released S-LoRA."""
ROUNDS = 12
"""Rounds in the time of the promise: arrivals and starts are counted by round."""
CHECKS = 60
"""Looks through the queue for hopeless requests in the time of the promise."""
CAUTION = 1.1
"""The factor by which times are taken to be longer than predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstTokenPolicy:
    """Says what is promised and by which means."""

    slo: float | None = None
    """Seconds from arrival to the first token; None: no promise."""
    order: Literal["auto", "oldest", "newest"] = "auto"
    """Whom to start first; auto: the newest while more arrive than are started."""
    refuses: bool = True
    """Whether hopeless requests are refused."""


@dataclass(slots=True)
class _Flow:
    arrivals: int = 0
    starts: int = 0
    mean_arrivals: float = 0.0
    mean_starts: float = 0.0


class Flows:
    """Counts how many requests of each tenant arrive and start in a round, as fading means."""

    def __init__(self, round_seconds: float, clock: Callable[[], float]) -> None:
        self._round_seconds = round_seconds
        self._clock = clock
        self._round_end = clock() + round_seconds
        self._flows: dict[str, _Flow] = {}

    def arrived(self, tenant: str) -> None:
        """Count one more arrival."""
        self._turn_over()
        self._flows.setdefault(tenant, _Flow()).arrivals += 1

    def started(self, tenant: str) -> None:
        """Count one that starts."""
        self._turn_over()
        self._flows.setdefault(tenant, _Flow()).starts += 1

    def is_flooded(self, tenant: str) -> bool:
        """Tell whether more arrive than start."""
        self._turn_over()
        flow = self._flows.get(tenant)
        return flow is not None and flow.mean_arrivals > flow.mean_starts

    def _turn_over(self) -> None:
        late = self._clock() - self._round_end
        if late < 0:
            return
        empty_rounds = int(late // self._round_seconds)
        self._round_end += (empty_rounds + 1) * self._round_seconds
        for tenant, flow in list(self._flows.items()):
            fading = FORMER**empty_rounds
            mean_arrivals = FORMER * flow.mean_arrivals + (1 - FORMER) * flow.arrivals
            mean_starts = FORMER * flow.mean_starts + (1 - FORMER) * flow.starts
            self._flows[tenant] = _Flow(0, 0, mean_arrivals * fading, mean_starts * fading)
            if max(mean_arrivals, mean_starts) * fading < 1e-3:
                del self._flows[tenant]


class Deadlines:
    """Orders and refuses requests for the sake of the promise."""

    def __init__(
        self, policy: FirstTokenPolicy, forecast: Forecast, clock: Callable[[], float]
    ) -> None:
        self._policy = policy
        self._forecast = forecast
        self._clock = clock
        slo = policy.slo or 1.0
        self._flows = Flows(slo / ROUNDS, clock)
        self._check_seconds = slo / CHECKS
        self._next_check = 0.0

    @property
    def slo(self) -> float | None:
        """Seconds to the first token that are promised."""
        return self._policy.slo

    def arrived(self, sequence: Sequence) -> None:
        """It begins to wait."""
        if self._policy.slo is not None:
            self._flows.arrived(sequence.tenant)

    def started(self, sequence: Sequence) -> None:
        """Note that it waits no more."""
        if self._policy.slo is not None:
            self._flows.started(sequence.tenant)

    def newest_first(self, tenant: str) -> bool:
        """Tell whether the newest request of `tenant` goes first."""
        if self._policy.order != "auto":
            return self._policy.order == "newest"
        return self._policy.slo is not None and self._flows.is_flooded(tenant)

    def hopeless(
        self, waiting: WaitingQueue, load: Callable[[], Load]
    ) -> list[tuple[Sequence, OverloadedError]]:
        """List those who cannot be in time, with what to tell the client; looks now and then."""
        slo, now = self._policy.slo, self._clock()
        if slo is None or not self._policy.refuses or not waiting or now < self._next_check:
            return []
        self._next_check = now + self._check_seconds
        present = load()
        found = []
        for tenant, queue in waiting.tenants.items():
            for sequence, seconds in self._late(tenant, queue, waiting, present, slo, now):
                found.append((sequence, _too_late(now - sequence.arrived, seconds, slo)))
        return found

    def _late(
        self,
        tenant: str,
        queue: TenantQueue,
        waiting: WaitingQueue,
        load: Load,
        slo: float,
        now: float,
    ) -> Iterator[tuple[Sequence, float]]:
        """The late ones of a tenant and the seconds until their first token."""
        # With each of its own starts, the other tenants who wait have one too.
        rivals = len(waiting.tenants)
        ahead = position = 0
        for sequence in queue.in_order(newest_first=self.newest_first(tenant)):
            own = sequence.num_prompt
            seconds = CAUTION * self._forecast.first_token_seconds(
                ahead=ahead * rivals, position=position * rivals, own=own, load=load
            )
            if now - sequence.arrived + seconds >= slo:
                yield sequence, seconds
            else:
                ahead += own
                position += 1


def _too_late(waited: float, seconds: float, slo: float) -> OverloadedError:
    retry_after = max(1.0, seconds - slo)
    return OverloadedError(
        f"overloaded: the first token would come {waited + seconds:.1f} s after the request, and "
        f"the server promises {slo:g} s; try again in {retry_after:.0f} s",
        retry_after=retry_after,
    )
