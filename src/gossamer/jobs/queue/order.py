"""The order in which waiting jobs get their turn."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingJob:
    """A queued job."""

    id: str
    tenant: str
    created: float
    queued: float
    """Since when it waits; times are seconds since 1970."""
    memory: int | None = None
    """Bytes that it will take at its peak, estimated; None: not known, it trains alone."""
    disk: int = 0
    """Bytes that it may write."""
    device: str = "cpu"
    """Where it trains; a GPU takes one job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job that has a worker."""

    id: str
    tenant: str
    memory: int | None = None
    used: int = 0
    """Bytes of memory that its worker has taken so far."""
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPolicy:
    """What a tenant may use, and has used."""

    share: float = 1.0
    """The weight of the tenant when others wait too."""
    max_jobs: int | None = None
    """Jobs at the same time; None: as many as the server runs."""
    seconds_per_day: float | None = None
    """Seconds of training in 24 hours; None: no limit."""
    seconds: float = 0.0
    """Seconds of training in the last 24 hours."""


@dataclass(slots=True)
class _Line:
    """The jobs of one tenant, the oldest first."""

    policy: TenantPolicy
    num_running: int
    jobs: deque[WaitingJob] = field(default_factory=deque)

    def key(self) -> tuple[float, float, float, str]:
        first, share = self.jobs[0], self.policy.share
        return (self.policy.seconds / share, self.num_running / share, first.created, first.id)


def fair_order(
    waiting: Iterable[WaitingJob],
    running: Iterable[RunningJob],
    tenants: Mapping[str, TenantPolicy],
) -> Iterator[WaitingJob]:
    """Yield all waiting jobs in the order in which they should begin.

    First the tenant that has trained least in the last 24 hours for its share, among equals the
    one with the fewest jobs for its share, then the oldest job. Within a tenant by creation.
    """
    lines: dict[str, _Line] = {}
    counts: dict[str, int] = {}
    for busy in running:
        counts[busy.tenant] = counts.get(busy.tenant, 0) + 1
    for job in sorted(waiting, key=lambda job: (job.created, job.id)):
        if job.tenant not in lines:
            policy = tenants.get(job.tenant, TenantPolicy())
            lines[job.tenant] = _Line(policy, counts.get(job.tenant, 0))
        lines[job.tenant].jobs.append(job)
    while lines:
        tenant = min(lines, key=lambda name: lines[name].key())
        line = lines[tenant]
        yield line.jobs.popleft()
        line.num_running += 1
        if not line.jobs:
            del lines[tenant]
