"""The loop of a server that watches over workers: one look at everything each second.

One supervisor at a time: the one in the table's row, which it renews. Each of its writes asks for
that row in the same transaction, so a supervisor that slept through its lease changes nothing.

A look begins with what is, and ends with what should be; nothing is remembered that a crash could
lose, but which processes are this one's children.
"""

import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from gossamer.errors import SettingError, StorageError
from gossamer.jobs.process import ProcessIdentity, here
from gossamer.jobs.queue.choose import QueueRules, choose
from gossamer.jobs.queue.needs import MachineRoom, size
from gossamer.jobs.queue.order import RunningJob, TenantPolicy, WaitingJob
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.attempts import Death
from gossamer.jobs.store.records import JobRecord, SupervisorRecord
from gossamer.jobs.supervise.attend import Attendant, Watch
from gossamer.jobs.supervise.estimate import Estimates, Estimator
from gossamer.jobs.supervise.launch import Launcher, ProcessLauncher
from gossamer.jobs.supervise.memory_guard import MemoryGuard
from gossamer.jobs.supervise.reconcile import reconcile
from gossamer.jobs.supervise.room import host_memory, measure, memory_of
from gossamer.jobs.supervise.throttle import Throttle, go_on

log = logging.getLogger("gossamer.jobs")

_LOOK_SECONDS = 1.0
_THROTTLE_SECONDS = 0.2
_RECONCILE_SECONDS = 3600.0
_DAY = 24 * 3600.0
_DETACHED_SECONDS = 30 * _DAY
_FAILURES_AT_STOP = 2
"""How often the database may fail while the server stops before workers are asked without it."""


class Supervisor:
    """Starts, hears and stops workers, while it is the one supervisor."""

    def __init__(
        self,
        store: JobStore,
        settings: JobsSettings,
        launch: Launcher | None = None,
        *,
        policies: Callable[[], Mapping[str, TenantPolicy]] = dict,
        is_busy: Callable[[], bool] | None = None,
        device: str = "cpu",
        estimator: Estimator | None = None,
    ) -> None:
        """`launch` starts workers (None: as programs), `policies` tells what tenants may use,
        `is_busy` whether requests run now (None: it is not known, and jobs_share=pause is
        refused), `device` where a job trains whose estimate does not tell, `estimator` makes
        estimates (None: one of its own)."""
        self._store = store
        self._settings = settings
        self._launch = launch or ProcessLauncher(settings)
        self._policies = policies
        self._device = device
        self._owner = uuid.uuid4().hex
        self._attendant = Attendant(store, settings, self._owner)
        self._guard = MemoryGuard(settings, self._attendant.watches)
        self._estimator = estimator or Estimator(store, settings)
        self._estimates = Estimates(store, settings, self._estimator)
        self._throttle: Throttle | None = None
        if settings.jobs_share == "pause":
            if is_busy is None:
                raise SettingError("jobs_share=pause needs a server that tells when requests run")
            self._throttle = Throttle(store, settings, self._owner, is_busy)
        self._is_supervisor = False
        self._renewed = self._reconciled = -float("inf")
        self._is_stopping = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look, in a thread."""
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()
        self._guard.start()

    def wake(self) -> None:
        """Look now: something has changed."""
        self._wake.set()

    def stop(self, *, detach: bool = False) -> None:
        """Stop looking; returns when it is done.

        The workers save, and their jobs wait for the next server. With `detach` they go on alone.
        """
        self._is_stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._guard.stop()
        self._estimator.close()
        if not self._is_supervisor:
            return
        for watch in self._attendant.watches.values():
            go_on(watch)
        if not detach:
            self._end_workers()
        alone = _DETACHED_SECONDS if detach else 0.0
        try:
            self._store.supervisor.leave(self._owner, time.time() + alone)
        except StorageError as error:
            # Its lease ends by itself.
            log.warning("the next server cannot be told that this one ends: %s", error)
        self._is_supervisor = False

    def look(self) -> None:
        """Do once what is to be done."""
        if not self._keep_lease():
            return
        self._reconcile()
        self._guard.look()
        self._store.jobs.judge_files()
        room = measure(self._settings)
        stop = None
        if room.is_disk_low:
            stop = f"less than {size(room.disk_reserve)} of the disk are free"
        self._attend(stop)
        if self._throttle is not None:
            self._throttle.apply(self._attendant.watches)
        if not self._is_stopping:
            self._start_jobs(room)

    def _run(self) -> None:
        while not self._is_stopping:
            try:
                self.look()
            except StorageError as error:
                log.warning("the supervisor's look failed: %s", error)
                self._wake_stopped()
            except Exception:
                # The next look begins from what is on the disk and in the tables.
                log.exception("the supervisor's look failed")
            pause = _LOOK_SECONDS if self._throttle is None else _THROTTLE_SECONDS
            self._wake.wait(min(pause, self._settings.heartbeat_seconds))
            self._wake.clear()

    def _wake_stopped(self) -> None:
        """Let workers go on, and another server: one that was stopped in the middle of a
        transaction keeps SQLite's write lock, and no one can write, not even to give it up."""
        try:
            found = [*self._store.jobs.of_statuses("running"), self._store.supervisor.get()]
        except StorageError:
            return
        for row in found:
            if row is None or row.place is None or row.pid is None or row.pid_started is None:
                continue
            process = ProcessIdentity(row.place, row.pid, row.pid_started)
            if process.is_here() and not process.has_ended():
                with suppress(OSError):
                    os.kill(process.pid, signal.SIGCONT)
        for watch in self._attendant.watches.values():
            watch.is_paused = False

    def _reconcile(self) -> None:
        if time.monotonic() - self._reconciled <= _RECONCILE_SECONDS:
            return
        self._reconciled = time.monotonic()
        try:
            reconcile(self._store, self._settings)
        except Exception:
            log.exception("what a crash left undone could not be done now")

    def _keep_lease(self) -> bool:
        """Whether this is the supervisor, now and for the time of a lease."""
        now = time.monotonic()
        if self._is_supervisor and now - self._renewed < self._settings.heartbeat_seconds:
            return True
        until = time.time() + self._settings.lease_seconds
        if self._is_supervisor:
            self._is_supervisor = self._store.supervisor.renew(self._owner, until)
        else:
            self._is_supervisor = self._store.supervisor.take(self._row(until), _has_ended)
            if self._is_supervisor:
                log.info("this server watches over jobs")
                self._reconciled = -float("inf")
        self._renewed = now
        return self._is_supervisor

    def _row(self, until: float) -> SupervisorRecord:
        own = ProcessIdentity.own()
        return SupervisorRecord(
            owner=self._owner,
            place=own.place,
            pid=own.pid,
            pid_started=own.started,
            lease_until=until,
        )

    def _attend(self, stop: str | None) -> None:
        running = self._store.jobs.of_statuses("running")
        for row in running:
            try:
                if stop is not None:
                    self._store.attempts.note(row.id, row.attempt, f"The job stops for now: {stop}")
                self._attendant.attend(row, stop)
            except Exception:
                # One job that cannot be looked after holds up no other.
                log.exception("%s cannot be looked after", row.id)
        self._attendant.forget_ended({(row.id, row.attempt) for row in running})

    def _start_jobs(self, room: MachineRoom) -> None:
        waiting = self._store.jobs.of_statuses("queued")
        running = self._store.jobs.of_statuses("running")
        left = self._choose(waiting, running, room) if waiting else []
        beside = running
        if self._settings.max_jobs == 1 or not waiting:
            beside = [row for row in running if row.kind == "compare"]
        self._estimates.look([*beside, *left])

    def _choose(
        self, waiting: list[JobRecord], running: list[JobRecord], room: MachineRoom
    ) -> list[JobRecord]:
        """Start the jobs whose turn it is; returns those that go on waiting."""
        choice = choose(
            [self._waiting(row) for row in waiting],
            [self._running(row) for row in running],
            self._tenants({row.tenant for row in waiting}),
            room,
            QueueRules(
                max_jobs=self._settings.max_jobs, memory_margin=self._settings.memory_margin
            ),
            now=time.time(),
        )
        self._store.jobs.set_waiting_reasons(choice.reasons)
        rows = {row.id: row for row in waiting}
        for job_id in choice.start:
            self._begin(job_id, host_memory(rows[job_id].estimate))
        return [row for row in waiting if row.id in choice.reasons]

    def _begin(self, job_id: str, memory: int | None) -> None:
        """Start a worker. A crash after the first step leaves an attempt that no worker registers
        for; its lease runs out, and the job is begun again."""
        until = time.time() + self._settings.lease_seconds
        attempt = self._store.attempts.begin(job_id, self._owner, lease_until=until)
        if attempt is None:
            return
        try:
            child = self._launch(self._settings.folder.job(job_id), attempt)
        except OSError as error:
            death = Death(step=0, cause=f"no worker can be started: {error}", counts=True)
            self._store.attempts.died(
                job_id, attempt, self._owner, death, max_deaths=self._settings.max_deaths
            )
            return
        self._attendant.watches[job_id, attempt] = Watch(child=child, expected_memory=memory)
        log.info("%s, attempt %d: process %d", job_id, attempt, child.pid)

    def _waiting(self, row: JobRecord) -> WaitingJob:
        return WaitingJob(
            id=row.id,
            tenant=row.tenant,
            created=row.created,
            queued=row.queued or row.created,
            memory=host_memory(row.estimate),
            disk=int((row.estimate or {}).get("disk") or 0),
            device=self._device_of(row),
        )

    def _running(self, row: JobRecord) -> RunningJob:
        watch = self._attendant.watches.get((row.id, row.attempt))
        return RunningJob(
            id=row.id,
            tenant=row.tenant,
            memory=host_memory(row.estimate),
            used=memory_of(watch.pid if watch else None),
            device=self._device_of(row),
        )

    def _device_of(self, row: JobRecord) -> str:
        return str((row.estimate or {}).get("device") or self._device)

    def _tenants(self, names: set[str]) -> dict[str, TenantPolicy]:
        seconds = self._store.attempts.seconds_since(time.time() - _DAY)
        known = self._policies()
        return {
            name: replace(known.get(name, TenantPolicy()), seconds=seconds.get(name, 0.0))
            for name in names
        }

    def _end_workers(self) -> None:
        """Have all workers of this place save and end; returns when they have, or were killed.

        If the database cannot be used, those that were started here are asked without it.
        """
        failures = 0
        while failures < _FAILURES_AT_STOP:
            try:
                if not self._end_some():
                    return
                failures = 0
            except StorageError as error:
                failures += 1
                log.warning("the server stops, and the database says nothing: %s", error)
            time.sleep(0.1)
        for watch in self._attendant.watches.values():
            if watch.child is not None and watch.child.poll() is None:
                os.kill(watch.child.pid, signal.SIGTERM)

    def _end_some(self) -> bool:
        """Attend to the workers of this place; False when there are none, or others supervise."""
        running = self._workers_here()
        until = time.time() + self._settings.lease_seconds
        if not running or not self._store.supervisor.renew(self._owner, until):
            return False
        for row in running:
            self._attendant.attend(row, "the server stops")
        return True

    def _workers_here(self) -> list[JobRecord]:
        """The running jobs whose worker is a process that can be stopped from here."""
        watches = self._attendant.watches
        running = self._store.jobs.of_statuses("running")
        return [
            row
            for row in running
            if row.place == here() or watches.get((row.id, row.attempt), Watch()).child is not None
        ]


def _has_ended(row: SupervisorRecord) -> bool:
    return ProcessIdentity(row.place, row.pid, row.pid_started).has_ended()
