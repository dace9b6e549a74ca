"""The supervisor, look by look, with processes that only wait."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from job_helpers import add_job, messages
from kills_case import is_alive, until
from watched_case import DEAF, NEEDS, QUICK, kill
from worker_case import FAR

from gossamer.jobs.outcome import write_outcome
from gossamer.jobs.process import ProcessIdentity, _started
from gossamer.jobs.queue.order import TenantPolicy
from gossamer.jobs.store.attempts import JobOutcome


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
