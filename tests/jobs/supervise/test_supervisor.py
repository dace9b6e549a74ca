"""The supervisor, look by look, with processes that only wait."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from job_helpers import add_job, messages
from kills_case import is_alive, until
from worker_case import FAR, quick_settings

from gossamer.errors import SettingError, StorageError
from gossamer.jobs.outcome import write_outcome
from gossamer.jobs.process import ProcessIdentity, _started, here
from gossamer.jobs.queue.needs import GIB, MachineRoom
from gossamer.jobs.queue.order import TenantPolicy
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.attempts import JobOutcome
from gossamer.jobs.store.scoped import EVERYONE
from gossamer.jobs.supervise import supervisor as supervisor_module
from gossamer.jobs.supervise.supervisor import Supervisor

NEEDS = {"memory": 1, "disk": 1}
DEAF = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
)
QUICK = {"heartbeat_seconds": 0.05, "lease_seconds": 0.3, "stop_seconds": 0.1}


class Waiting:
    """Starts processes that wait for ever, in the place of workers."""

    def __init__(self, settings, code="print(1, flush=True); import time; time.sleep(99)"):
        self.settings, self.code, self.children = settings, code, []

    def __call__(self, job, attempt):
        job.root.mkdir(exist_ok=True)
        child = subprocess.Popen(
            [sys.executable, "-c", self.code], stdout=subprocess.PIPE, start_new_session=True
        )
        child.stdout.readline()
        self.children.append(child)
        return child

    def end(self):
        for child in self.children:
            child.kill()
            child.wait()
            child.stdout.close()


class Watched:
    """A supervisor that looks when it is told to."""

    def __init__(self, settings, *, code=None, **options):
        self.settings = settings
        self.store = JobStore.open(settings)
        self.waiting = Waiting(settings, code) if code else Waiting(settings)
        self.supervisor = Supervisor(self.store, settings, self.waiting, **options)

    @property
    def children(self):
        return self.waiting.children

    def add(self, tenant="a", **changes):
        return add_job(self.store, tenant, estimate=NEEDS, **changes)

    def row(self, job):
        return self.store.jobs.get(EVERYONE, job.id)

    def register(self, job, child, lease=FAR):
        """Do what a worker does first."""
        assert self.store.attempts.register(
            job.id,
            self.row(job).attempt,
            place=here(),
            pid=child.pid,
            pid_started=_started(child.pid),
            lease_until=lease,
        )

    def look_until(self, condition):
        def look():
            self.supervisor.look()
            return condition()

        until(look)

    def close(self):
        self.waiting.end()
        self.store.close()


@pytest.fixture
def watched(tmp_path):
    made = []

    def make(*, code=None, options=None, **settings):
        one = Watched(quick_settings(tmp_path, **settings), code=code, **(options or {}))
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def kill(child):
    child.kill()
    child.wait()


def test_jobs_start_up_to_the_limit_and_the_others_say_why_they_wait(watched):
    one = watched(max_jobs=2)
    jobs = [one.add() for _ in range(3)]
    one.supervisor.look()
    assert [one.row(job).status for job in jobs] == ["running", "running", "queued"]
    assert one.row(jobs[2]).reason == "2 jobs before it"
    one.supervisor.look()
    assert len(one.children) == 2


def test_one_job_at_a_time_trains_on_a_gpu(watched):
    one = watched(max_jobs=3)
    gpu = NEEDS | {"device": "cuda", "memory_parts": {"process": 1}}
    jobs = [add_job(one.store, estimate=gpu), add_job(one.store, estimate=gpu), one.add()]
    one.supervisor.look()
    assert [one.row(job).status for job in jobs] == ["running", "queued", "running"]
    assert one.row(jobs[1]).reason == "cuda trains another job"


def test_a_job_goes_on_after_its_worker_died_and_fails_after_three_deaths(watched):
    one = watched()
    job = one.add()
    for attempt in (1, 2, 3):
        one.supervisor.look()
        assert one.row(job).attempt == attempt
        kill(one.children[-1])
    one.supervisor.look()
    row = one.row(job)
    assert row.status == "failed"
    assert row.error["code"] == "worker_died"
    assert messages(one.store, job)[3] == "The worker was killed; going on from the first step"


def test_a_worker_that_ends_by_itself_without_a_word_is_dead_too(watched):
    one = watched(code="print(1); raise SystemExit(3)")
    job = one.add()
    one.supervisor.look()
    one.children[-1].wait()
    one.supervisor.look()
    assert messages(one.store, job)[3].startswith("The worker ended with code 3; going on")


def test_lack_of_memory_is_told_from_other_deaths(watched, monkeypatch):
    one = watched()
    job = one.add()
    count = [0]
    monkeypatch.setattr("gossamer.jobs.supervise.attend.memory_kills", lambda: count[0])
    for attempt in (1, 2):
        one.supervisor.look()
        assert one.row(job).attempt == attempt
        count[0] += 1
        kill(one.children[-1])
    one.supervisor.look()
    assert one.row(job).error["code"] == "out_of_memory"
    assert "batch_size" in one.row(job).error["message"]


def test_an_outcome_on_the_disk_ends_the_job_whose_worker_died_before_it_said_so(watched):
    one = watched()
    job = one.add()
    one.supervisor.look()
    paths = one.settings.folder.job(job.id)
    paths.run.mkdir()
    (paths.run / "adapter_config.json").write_text("{}")
    write_outcome(paths, JobOutcome(trained_tokens=5, digest="d", bytes=1))
    kill(one.children[-1])
    one.supervisor.look()
    assert one.row(job).status == "succeeded"
    link = one.settings.folder.link(job.name)
    assert os.readlink(link) == f"../jobs/{job.id}/run"
    one.supervisor.look()
    assert messages(one.store, job).count("The job has successfully completed") == 1


def test_a_link_is_made_when_the_worker_died_after_it_had_ended_the_job(watched):
    one = watched()
    job = one.add()
    one.supervisor.look()
    paths = one.settings.folder.job(job.id)
    paths.run.mkdir()
    (paths.run / "adapter_config.json").write_text("{}")
    assert one.store.attempts.finish(job.id, 1, JobOutcome(digest="d", bytes=1))
    one.supervisor.look()
    assert not one.settings.folder.link(job.name).is_symlink(), "its worker may do so still"
    kill(one.children[-1])
    one.supervisor.look()
    assert one.settings.folder.link(job.name).is_symlink()


@pytest.mark.parametrize(("change", "status"), [("pause", "paused"), ("cancel", "cancelled")])
def test_a_worker_that_does_not_stop_is_killed_and_the_job_is_as_wanted(watched, change, status):
    one = watched(code=DEAF, **QUICK)
    job = one.add()
    one.supervisor.look()
    one.register(job, one.children[0])
    getattr(one.store.jobs, change)("a", job.id)
    one.supervisor._attendant._stop_seconds = lambda row: 0.2
    one.supervisor.look()
    assert is_alive(one.children[0].pid)
    one.look_until(lambda: one.row(job).status == status)
    assert one.children[0].wait() == -signal.SIGKILL
    assert one.row(job).deaths == 0
    assert len(one.children) == 1


def test_a_worker_has_the_time_of_three_steps_to_stop(watched):
    one = watched()
    job = one.add()
    assert one.supervisor._attendant._stop_seconds(job) == 30.0
    run = one.settings.folder.job(job.id).run
    run.mkdir(parents=True)
    line = '{"step": 1, "loss": 1.0, "seconds": 50.0, "tokens_per_second": 1.0}\n'
    (run / "metrics.jsonl").write_text(line)
    assert one.supervisor._attendant._stop_seconds(job) == 160.0


def test_a_living_worker_of_a_former_server_is_heard_and_not_started_again(watched):
    first = watched(max_jobs=2)
    job = first.add()
    first.supervisor.look()
    first.register(job, first.children[0])
    first.store.supervisor.renew(first.supervisor._owner, time.time() - 1)
    second = watched(max_jobs=2)
    for _ in range(3):
        second.supervisor.look()
    assert second.children == []
    assert second.row(job).attempt == 1
    kill(first.children[0])
    second.supervisor.look()
    assert second.row(job).attempt == 2
    assert "The worker was gone; going on from the first step" in messages(second.store, job)


def test_a_server_that_was_replaced_does_nothing_more(watched):
    first, second = watched(), watched()
    first.supervisor.look()
    first.store.supervisor.renew(first.supervisor._owner, time.time() - 1)
    second.supervisor.look()
    job = first.add()
    first.supervisor._renewed = -float("inf")
    first.supervisor.look()
    assert first.children == []
    first.supervisor._is_supervisor = True  # as one that slept between two statements
    first.supervisor._renewed = time.monotonic()
    first.supervisor.look()
    assert first.children == []
    assert second.row(job).status == "queued"
    second.supervisor.look()
    assert second.row(job).status == "running"


def test_the_server_of_a_process_that_has_gone_is_replaced_at_once(watched):
    one = watched()
    own = one.supervisor._row(FAR)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    row = type(own)(owner="gone", place=own.place, pid=gone.pid, pid_started=1.0, lease_until=FAR)
    assert one.store.supervisor.take(row, lambda _: False)
    job = one.add()
    one.supervisor.look()
    assert one.row(job).status == "running"


def test_an_attempt_whose_worker_never_came_is_begun_again_after_its_lease(watched):
    one = watched(**QUICK)
    job = one.add()
    one.supervisor.look()
    one.store.supervisor.renew(one.supervisor._owner, time.time() - 1)
    kill(one.children[0])
    second = watched(**QUICK)
    second.look_until(lambda: second.row(job).attempt == 2)
    assert second.row(job).deaths == 0


def test_a_worker_that_gives_no_sign_of_life_is_killed_and_its_job_goes_on(watched):
    one = watched(**QUICK)
    job = one.add()
    one.supervisor.look()
    one.register(job, one.children[0], lease=time.time() + 0.1)
    os.kill(one.children[0].pid, signal.SIGSTOP)
    one.look_until(lambda: one.row(job).attempt == 2)
    assert one.children[0].wait() == -signal.SIGKILL
    assert "The worker gave no sign of life; going on from the first step" in messages(
        one.store, job
    )


def test_a_worker_that_is_only_slow_is_not_killed(watched):
    one = watched(code="print(1, flush=True)\nwhile True: pass", **QUICK)
    job = one.add()
    one.supervisor.look()
    one.register(job, one.children[0], lease=time.time() + 0.1)
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        one.supervisor.look()
        time.sleep(0.05)
    assert is_alive(one.children[0].pid)
    assert one.row(job).attempt == 1


def test_one_look_at_an_old_lease_kills_nobody(watched):
    one = watched()
    job = one.add()
    one.supervisor.look()
    one.register(job, one.children[0], lease=time.time() - 100)
    one.supervisor.look()
    assert one.store.attempts.beat(job.id, 1, lease_until=FAR)
    one.supervisor._attendant.watches[job.id, 1].suspect_since = -1e9
    one.supervisor.look()
    assert is_alive(one.children[0].pid)
    assert one.row(job).attempt == 1


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
    monkeypatch.setattr(
        "gossamer.jobs.store.database._PRAGMAS", ("journal_mode=WAL", "busy_timeout=100")
    )
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


def test_one_job_that_cannot_be_looked_after_holds_up_no_other(watched, monkeypatch, caplog):
    one = watched(max_jobs=2)
    bad, good = one.add(), one.add()
    one.supervisor.look()
    attend = one.supervisor._attendant.attend

    def fail(row, stop):
        if row.id == bad.id:
            raise RuntimeError("odd")
        attend(row, stop)

    monkeypatch.setattr(one.supervisor._attendant, "attend", fail)
    for child in one.children:
        kill(child)
    one.supervisor.look()
    assert one.row(good).attempt == 2
    assert bad.id in caplog.text


def test_a_worker_that_cannot_be_started_counts_as_a_death(watched):
    one = watched()
    job = one.add()

    def refuse(job, attempt):
        raise OSError("no more processes")

    one.supervisor._launch = refuse
    for _ in range(3):
        one.supervisor.look()
    assert one.row(job).status == "failed"
    assert "no more processes" in one.row(job).error["message"]


def test_quotas_of_tenants_are_asked_at_each_look(watched):
    policies = {"a": TenantPolicy(max_jobs=1)}
    one = watched(max_jobs=9, options={"policies": lambda: policies})
    jobs = [one.add(), one.add()]
    one.supervisor.look()
    assert [one.row(job).status for job in jobs] == ["running", "queued"]
    assert one.row(jobs[1]).reason == "tenant 'a' trains 1 of at most 1 jobs"
    policies["a"] = TenantPolicy(max_jobs=2)
    one.supervisor.look()
    assert one.row(jobs[1]).status == "running"


def test_a_process_is_known_also_after_its_number_was_given_away():
    own = ProcessIdentity.own()
    assert not own.has_ended()
    assert ProcessIdentity(own.place, own.pid, own.started - 1).has_ended()
    assert not ProcessIdentity("another machine", own.pid, 0.0).has_ended()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity(own.place, child.pid, _started(child.pid))
    assert not identity.has_ended()
    child.stdin.close()
    until(identity.has_ended)
    assert Path(f"/proc/{child.pid}").exists() or sys.platform != "linux", "not reaped yet"
    child.wait()
    assert identity.has_ended()
