"""Who starts now, and a sentence for each job that waits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gossamer.jobs.queue.needs import MachineRoom, size
from gossamer.jobs.queue.order import RunningJob, TenantPolicy, WaitingJob, fair_order

PATIENCE = 600.0
"""Seconds that a job lets others pass which need less memory than it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRules:
    """What holds for all jobs."""

    max_jobs: int = 1
    memory_margin: float = 1.15
    """Factor on estimates of memory."""


@dataclass(frozen=True, slots=True)
class QueueChoice:
    """What to do now."""

    start: list[str]
    """Jobs to start, in this order."""
    reasons: dict[str, str]
    """For each other waiting job, why it waits."""


@dataclass(slots=True)
class _Taken:
    """What is in use by the jobs that run and those that were just chosen."""

    running: list[RunningJob]
    memory: float = 0.0
    """What running jobs will still take, in bytes."""
    disk: int = 0
    tenants: dict[str, int] = field(default_factory=dict)

    def add(self, job: RunningJob, margin: float) -> None:
        self.tenants[job.tenant] = self.tenants.get(job.tenant, 0) + 1
        if job.memory is not None:
            self.memory += max(0.0, job.memory * margin - job.used)

    def start(self, job: WaitingJob, margin: float) -> None:
        begun = RunningJob(id=job.id, tenant=job.tenant, memory=job.memory, device=job.device)
        self.running.append(begun)
        self.disk += job.disk
        self.add(begun, margin)


def choose(
    waiting: Iterable[WaitingJob],
    running: Iterable[RunningJob],
    tenants: Mapping[str, TenantPolicy],
    room: MachineRoom,
    rules: QueueRules,
    *,
    now: float,
) -> QueueChoice:
    """Go through the waiting jobs in fair order and start those that fit beside the running ones.

    A job that does not fit lets smaller ones pass for `PATIENCE` seconds; from then on none that
    comes after it begins, so that what ends makes room for it.
    """
    taken = _Taken(list(running))
    for busy in taken.running:
        taken.add(busy, rules.memory_margin)
    choice = QueueChoice([], {})
    is_held = False
    for place, job in enumerate(fair_order(waiting, list(taken.running), tenants)):
        policy = tenants.get(job.tenant, TenantPolicy())
        reason = _own_limit(job, policy, taken)
        if reason is None and (is_held or len(taken.running) >= rules.max_jobs):
            # Who runs and who waits in front of it; those that start now are counted among both.
            reason = _jobs(place + len(taken.running) - len(choice.start))
        if reason is None:
            reason = _no_room(job, taken, room, rules)
            is_held = reason is not None and now - job.queued > PATIENCE
        if reason is None:
            taken.start(job, rules.memory_margin)
            choice.start.append(job.id)
        else:
            choice.reasons[job.id] = reason
    return choice


def _own_limit(job: WaitingJob, policy: TenantPolicy, taken: _Taken) -> str | None:
    """Why the job's tenant may not start one; jobs of others do not wait for that."""
    most = policy.max_jobs
    if most is not None and taken.tenants.get(job.tenant, 0) >= most:
        return f"tenant '{job.tenant}' trains {most} of at most {most} jobs"
    limit = policy.seconds_per_day
    if limit is not None and policy.seconds >= limit:
        used = f"{policy.seconds / 60:.0f} of {limit / 60:.0f} minutes of training"
        return f"tenant '{job.tenant}' has used {used} in the last 24 hours"
    return None


def _no_room(job: WaitingJob, taken: _Taken, room: MachineRoom, rules: QueueRules) -> str | None:
    """Why the job does not fit beside what runs."""
    on_device = [other for other in taken.running if other.device == job.device]
    if job.device != "cpu" and on_device:
        return f"{job.device} trains another job"
    lacking = job.disk + taken.disk + room.disk_reserve - room.disk_free
    if lacking > 0:
        return f"needs {size(lacking)} more free disk"
    if job.memory is None:
        return "its memory is not known, so it trains alone" if taken.running else None
    alone = next((other for other in taken.running if other.memory is None), None)
    if alone is not None:
        return "the running job's memory is not known, so that it trains alone"
    left = room.memory_free - room.memory_reserve - taken.memory
    missing = job.memory * rules.memory_margin - left
    return f"needs {size(missing)} more memory" if missing > 0 else None


def _jobs(count: int) -> str:
    return "1 job before it" if count == 1 else f"{count} jobs before it"
