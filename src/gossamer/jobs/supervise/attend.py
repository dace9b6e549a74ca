"""One running job: is its worker alive, should it stop, how did it end.

The row says which attempt runs and what its owner wants; the process says whether it lives. What
follows is looked up each time, so that a supervisor which takes over knows as much as the former:

- A worker is alive while its process is (of another place: while its lease is). One that has not
  registered yet has the time of the lease that it was started with.
- A worker whose process is here, whose lease has run out, and which computes nothing for the time
  of another lease, hangs or was stopped; it is killed. One that computes is only slow.
- To stop: SIGTERM once; after the time that a step and a checkpoint may take, SIGKILL.
- An ended worker whose job still runs has died without a word, unless the outcome is on the disk.
"""

import logging
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field

from filelock import FileLock, Timeout

from gossamer.jobs.outcome import finish, read_outcome
from gossamer.jobs.process import ProcessIdentity
from gossamer.jobs.results.links import show_model
from gossamer.jobs.run_files import saved_step, step_seconds
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.attempts import Death
from gossamer.jobs.store.records import JobRecord
from gossamer.jobs.store.scoped import EVERYONE
from gossamer.jobs.supervise.launch import Child
from gossamer.jobs.supervise.room import cpu_seconds, descendants, host_memory, memory_kills
from gossamer.jobs.supervise.starvation import Progressing

log = logging.getLogger("gossamer.jobs")

_SAVE_SECONDS = 10.0
_FOR_ALL = (signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL)


@dataclass(slots=True)
class Watch:
    """What this supervisor knows of one attempt beside the row; it may be lost."""

    child: Child | None = None
    """The process, if it was started here."""
    identity: ProcessIdentity | None = None
    """The process, as the row tells; None: it has not registered."""
    memory_kills: int = field(default_factory=memory_kills)
    """The kernel's count of kills for lack of memory when the watch began."""
    stop_asked: float | None = None
    """When SIGTERM was sent; times are of the monotonic clock."""
    suspect_since: float | None = None
    """Since when the lease is seen to have run out."""
    spent: tuple[float, float] | None = None
    """The processor's time that a silent worker has had, and since when it has had no more."""
    killed_for: str | None = None
    """Why it was killed here."""
    took_too_much: bool = False
    """Whether that was for the memory which it held."""
    expected_memory: int | None = None
    """Bytes of this machine's memory that its job was expected to take; None: not known."""
    most_held: int = 0
    """The most memory that it was seen to hold, in bytes."""
    is_paused: bool = False
    """Whether it was stopped here for a moment, for requests to run."""
    progressing: Progressing = field(default_factory=Progressing)
    """What tells whether it gets on."""

    @property
    def pid(self) -> int | None:
        """The number of a process of this place; None: not known."""
        if self.child is not None:
            return self.child.pid
        known = self.identity
        return known.pid if known is not None and known.is_here() else None

    def signal(self, number: int) -> None:
        """Send a signal to the worker, and to no process that has taken its number since.

        Its own processes get those that leave it no time to pass them on.
        """
        if self.pid is None or self.has_ended():
            return
        others = descendants(self.pid) if number in _FOR_ALL else []
        for pid in (self.pid, *others):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def has_ended(self) -> bool:
        """Whether the process is known to be gone."""
        if self.child is not None:
            return self.child.poll() is not None
        return self.identity is not None and self.identity.has_ended()


class Attendant:
    """Attends to the running jobs of a supervisor."""

    def __init__(self, store: JobStore, settings: JobsSettings, owner: str) -> None:
        self._store = store
        self._settings = settings
        self._owner = owner
        self.watches: dict[tuple[str, int], Watch] = {}

    def attend(self, row: JobRecord, stop: str | None) -> None:
        """Look after one running job; `stop`: why its worker should end, None: it may go on."""
        watch = self._watch(row)
        if self._is_over(row, watch):
            self._settle(row, watch)
        elif stop is not None or row.wanted != "run":
            self._stop(row, watch)
        else:
            self._judge_silence(row, watch)
            self._explain(row, watch)

    def forget_ended(self, running: set[tuple[str, int]]) -> None:
        """Drop the watches of workers that have ended and whose job is not running any more."""
        for key in [key for key in self.watches if key not in running]:
            if self.watches[key].has_ended() or self.watches[key].pid is None:
                del self.watches[key]
                self._after_the_end(key[0])

    def _watch(self, row: JobRecord) -> Watch:
        watch = self.watches.setdefault((row.id, row.attempt), Watch())
        watch.expected_memory = host_memory(row.estimate)
        if watch.identity is None and row.pid is not None:
            assert row.place is not None
            assert row.pid_started is not None
            watch.identity = ProcessIdentity(row.place, row.pid, row.pid_started)
            if watch.child is None:
                # The supervisor before may have stopped it for a moment, and then have gone.
                watch.signal(signal.SIGCONT)
        return watch

    def _is_over(self, row: JobRecord, watch: Watch) -> bool:
        if watch.child is not None or watch.identity is not None:
            is_away = watch.child is None and watch.identity and not watch.identity.is_here()
            if is_away:
                return self._is_silent(row, watch)
            return watch.has_ended()
        # Started by a supervisor that has gone, and not registered in time: no worker, or one that
        # still waits for the lock and will find its attempt over.
        return self._is_silent(row, watch) and self._is_unlocked(row)

    def _is_unlocked(self, row: JobRecord) -> bool:
        job = self._settings.folder.job(row.id)
        job.root.mkdir(mode=0o700, exist_ok=True)
        try:
            with FileLock(job.lock, timeout=0):
                return True
        except Timeout:
            return False

    def _is_silent(self, row: JobRecord, watch: Watch) -> bool:
        """Whether the lease has run out, and had already at a look some time ago.

        A database that was away, or a machine that slept, leaves old leases of living workers,
        which a first sign of life renews.
        """
        if row.lease_until is None or row.lease_until >= time.time():
            watch.suspect_since = None
            return False
        now = time.monotonic()
        watch.suspect_since = watch.suspect_since or now
        return now - watch.suspect_since > 2 * self._settings.heartbeat_seconds

    def _judge_silence(self, row: JobRecord, watch: Watch) -> None:
        if not self._is_silent(row, watch):
            watch.spent = None
            return
        now, spent = time.monotonic(), cpu_seconds(watch.pid)
        if watch.spent is None or watch.spent[0] != spent:
            # Slow, on a machine that has no time for it, but not dead.
            watch.spent = (spent, now)
        elif now - watch.spent[1] > self._settings.lease_seconds:
            watch.killed_for = "the worker gave no sign of life"
            log.warning("%s: %s; it is killed", row.id, watch.killed_for)
            watch.signal(signal.SIGKILL)

    def _explain(self, row: JobRecord, watch: Watch) -> None:
        """Tell why the worker does not get on, if it does not; only what has changed is written."""
        reason = watch.progressing.reason(watch.pid, is_paused=watch.is_paused)
        if reason != row.reason:
            self._store.attempts.explain(row.id, row.attempt, self._owner, reason)

    def _stop(self, row: JobRecord, watch: Watch) -> None:
        now = time.monotonic()
        if watch.stop_asked is None:
            watch.stop_asked = now
            watch.is_paused = False
            watch.signal(signal.SIGTERM)
            # A process that was stopped hears it only when it goes on.
            watch.signal(signal.SIGCONT)
        elif now - watch.stop_asked > self._stop_seconds(row):
            watch.killed_for = "the worker did not stop in time"
            watch.signal(signal.SIGKILL)

    def _stop_seconds(self, row: JobRecord) -> float:
        step = step_seconds(self._settings.folder.job(row.id).run) or 0.0
        return max(self._settings.stop_seconds, 3 * step + _SAVE_SECONDS)

    def _settle(self, row: JobRecord, watch: Watch) -> None:
        """Make of a job what its ended worker did not live to make of it."""
        job = self._settings.folder.job(row.id)
        if read_outcome(job) is not None:
            finish(self._store, self._settings.folder, row.id, row.attempt)
        else:
            death = self._death(row, watch)
            log.warning("%s, attempt %d: %s", row.id, row.attempt, death.cause)
            self._store.attempts.died(
                row.id, row.attempt, self._owner, death, max_deaths=self._settings.max_deaths
            )
        self.watches.pop((row.id, row.attempt), None)
        self._after_the_end(row.id)

    def _after_the_end(self, job_id: str) -> None:
        """Do what a worker does after the transaction that ends a job."""
        row = self._store.jobs.get(EVERYONE, job_id)
        if row.status == "succeeded":
            for model in self._store.models.of_job(job_id):
                show_model(self._store, self._settings.folder, model.name)

    def _death(self, row: JobRecord, watch: Watch) -> Death:
        step = saved_step(self._settings.folder.job(row.id).run)
        if watch.killed_for is not None:
            # A hang may be the job's fault, a slow stop is not.
            return Death(
                step=step,
                cause=watch.killed_for,
                counts=watch.stop_asked is None,
                out_of_memory=watch.took_too_much,
                held=watch.most_held,
            )
        known = watch.identity
        if known is not None and not known.is_here():
            return Death(step=step, cause="the machine was restarted", counts=False)
        code = watch.child.poll() if watch.child is not None else None
        was_killed = code in (None, -signal.SIGKILL)
        if was_killed and memory_kills() > watch.memory_kills:
            cause = "the machine's memory ran out"
            return Death(
                step=step, cause=cause, counts=True, out_of_memory=True, held=watch.most_held
            )
        if watch.stop_asked is not None:
            # Before it could save, or in the middle of it.
            return Death(step=step, cause="the worker was stopped", counts=False)
        # One that was never seen alive was perhaps never started.
        counts = known is not None or code is not None
        return Death(step=step, cause=_cause(code), counts=counts)


def _cause(code: int | None) -> str:
    if code is None:
        return "the worker was gone"
    if code == -signal.SIGKILL:
        return "the worker was killed"
    if code < 0:
        return f"the worker was ended by signal {-code}"
    return f"the worker ended with code {code}"
