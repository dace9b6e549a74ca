"""When workers are stopped: for a full disk, for requests, for a server that ends."""

import os
import signal
import time
from dataclasses import replace

import psutil
import pytest
from job_helpers import messages
from kills_case import is_alive, until
from watched_case import QUICK
from worker_case import FAR

from gossamer.errors import SettingError, StorageError
from gossamer.jobs.process import _started, here
from gossamer.jobs.queue.needs import GIB, MachineRoom
from gossamer.jobs.supervise import supervisor as supervisor_module


def test_when_the_disk_is_low_workers_save_and_nothing_starts(watched, monkeypatch):
    one = watched(max_jobs=1)
    job, other = one.add(), one.add()
    one.supervisor.look()
    one.register(job, one.children[0])
    low = MachineRoom(
        memory_total=GIB, memory_free=GIB, disk_total=GIB, disk_free=1, disk_floor=2 * GIB
    )
    monkeypatch.setattr(supervisor_module, "measure", lambda settings: low)
    one.supervisor.look()
    assert one.children[0].wait() == -signal.SIGTERM
    one.supervisor.look()
    assert one.row(job).status == "queued"
    assert one.row(job).deaths == 0
    assert "The job stops for now: less than 2 GiB of the disk are free" in messages(one.store, job)
    assert one.row(other).attempt == 0
    assert one.row(other).reason == "needs 2 GiB more free disk"
    assert len(one.children) == 1


def test_workers_are_stopped_while_requests_run(watched, monkeypatch):
    monkeypatch.setattr("gossamer.jobs.supervise.throttle.QUIET_SECONDS", 0.0)
    busy = [False]
    one = watched(jobs_share="pause", options={"is_busy": lambda: busy[0]})
    job = one.add()
    one.supervisor.look()
    one.register(job, one.children[0], lease=time.time() - 1)
    process = psutil.Process(one.children[0].pid)
    busy[0] = True
    one.supervisor.look()
    until(lambda: process.status() == psutil.STATUS_STOPPED)
    assert one.row(job).lease_until > time.time(), "the supervisor holds the lease"
    busy[0] = False
    one.supervisor.look()
    until(lambda: process.status() != psutil.STATUS_STOPPED)
    busy[0] = True
    one.supervisor.look()
    one.store.jobs.pause("a", job.id)
    one.supervisor.look()
    assert one.children[0].wait() == -signal.SIGTERM, "it must run to hear that it should stop"


def test_a_server_ends_and_its_workers_too_though_the_database_does_not_answer(
    watched, monkeypatch
):
    one = watched()
    job = one.add()
    one.supervisor.look()
    one.register(job, one.children[0])

    def locked(*args, **kwargs):
        raise StorageError("the database cannot be used: database is locked")

    monkeypatch.setattr(one.store.jobs, "of_statuses", locked)
    monkeypatch.setattr(one.store.supervisor, "leave", locked)
    one.supervisor.stop()
    assert one.children[0].wait() == -signal.SIGTERM
    assert one.row(job).status == "running", "the next server finds a lease that ends"


def test_an_attempt_that_never_began_is_not_kept_alive_by_requests(watched):
    one = watched(jobs_share="pause", options={"is_busy": lambda: True}, **QUICK)
    job = one.add()
    one.supervisor._keep_lease()
    owner = one.supervisor._owner
    one.store.attempts.begin(job.id, owner, lease_until=time.time() + 0.1)
    one.look_until(lambda: one.row(job).attempt == 2)


def test_a_worker_that_was_stopped_in_a_transaction_blocks_others_for_a_while_only(
    watched, monkeypatch
):
    monkeypatch.setattr("gossamer.sqlite._PRAGMAS", ("journal_mode=WAL", "busy_timeout=100"))
    one = watched()
    job = one.add()
    one.supervisor.look()
    code = (
        "import sqlite3, time, sys\n"
        f"base = sqlite3.connect({str(one.settings.folder.database)!r}, isolation_level=None)\n"
        "base.execute('BEGIN IMMEDIATE')\n"
        "print(1, flush=True)\n"
        "time.sleep(0.5)\n"
        "base.execute('COMMIT')\n"
        "time.sleep(99)\n"
    )
    one.waiting.code = code
    blocking = one.waiting(one.settings.folder.job(job.id), 1)
    os.kill(blocking.pid, signal.SIGSTOP)
    # Registered before it blocks, in a life that has no tests.
    monkeypatch.setattr(
        one.store.jobs,
        "of_statuses",
        lambda *statuses: [
            replace(
                one.row(job), place=here(), pid=blocking.pid, pid_started=_started(blocking.pid)
            )
        ],
    )
    with pytest.raises(StorageError, match="locked"):
        one.store.jobs.set_waiting_reasons({job.id: "x"})
    one.supervisor._wake_stopped()

    def can_write():
        try:
            one.store.jobs.set_waiting_reasons({job.id: "x"})
        except StorageError:
            return False
        return True

    until(can_write)


def test_stopping_for_requests_needs_to_know_of_them(watched):
    with pytest.raises(SettingError, match="jobs_share=pause"):
        watched(jobs_share="pause")


def test_a_server_that_stops_has_its_workers_save_and_gives_up_the_row(watched):
    one = watched()
    job = one.add()
    one.supervisor.start()
    until(lambda: one.children and one.row(job).status == "running")
    one.register(job, one.children[0])
    one.supervisor.stop()
    assert one.children[0].wait() == -signal.SIGTERM
    row = one.row(job)
    assert (row.status, row.deaths, row.attempt) == ("queued", 0, 1)
    assert one.store.supervisor.get().owner == ""


def test_a_detached_server_leaves_its_workers_running(watched):
    one = watched()
    job = one.add()
    one.supervisor.look()
    one.register(job, one.children[0])
    one.supervisor.stop(detach=True)
    assert is_alive(one.children[0].pid)
    assert one.row(job).status == "running"
    left = one.store.supervisor.get()
    assert left.owner == ""
    assert left.lease_until > time.time() + 3600
    second = watched()
    second.supervisor.look()
    assert second.row(job).attempt == 1
    assert second.children == []


def test_a_server_does_not_wait_for_workers_of_another_machine(watched):
    one = watched()
    job = one.add()
    one.supervisor._keep_lease()
    one.store.attempts.begin(job.id, one.supervisor._owner, lease_until=FAR)
    assert one.store.attempts.register(
        job.id, 1, place="elsewhere", pid=1, pid_started=1.0, lease_until=FAR
    )
    one.supervisor.look()
    one.supervisor.stop()
    assert one.row(job).status == "running"
