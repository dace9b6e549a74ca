"""The steps of a running job: fenced by the attempt, told once, whoever says them."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from job_helpers import add_job, messages

from gossamer.jobs.store.attempts import Death, JobOutcome, ResultFile
from gossamer.jobs.store.records import SupervisorRecord
from gossamer.jobs.store.scoped import EVERYONE, PageAsk

FAR = 2e9
KILLED = Death(step=0, cause="the worker was killed", counts=True)


@pytest.fixture
def running(store):
    """A job with a worker in its first attempt."""
    take(store)
    job = add_job(store)
    assert start(store, job) == 1
    return job


def take(store, owner="owner", *, lease_until=FAR, ended=False):
    row = SupervisorRecord(
        owner=owner, place="here", pid=1, pid_started=1.0, lease_until=lease_until
    )
    return store.supervisor.take(row, lambda _: ended)


def start(store, job):
    attempt = store.attempts.begin(job.id, "owner", lease_until=FAR)
    if attempt is not None:
        assert register(store, job, attempt)
    return attempt


def register(store, job, attempt, pid=7):
    return store.attempts.register(
        job.id, attempt, place="here", pid=pid, pid_started=1.0, lease_until=FAR
    )


def died(store, job, attempt, death=KILLED, owner="owner"):
    return store.attempts.died(job.id, attempt, owner, death, max_deaths=3)


def test_a_job_is_begun_once_whoever_tries(store):
    take(store)
    job = add_job(store)
    with ThreadPoolExecutor(8) as threads:
        begun = list(
            threads.map(lambda _: store.attempts.begin(job.id, "owner", lease_until=FAR), range(16))
        )
    assert [number for number in begun if number is not None] == [1]


def test_only_the_supervisor_begins_jobs_and_judges_deaths(store, running):
    other = add_job(store)
    assert store.attempts.begin(other.id, "stranger", lease_until=FAR) is None
    assert died(store, running, 1, owner="stranger") is None
    assert store.jobs.get("a", running.id).status == "running"


def test_one_process_registers_for_an_attempt(store, running):
    assert register(store, running, 1, pid=8) is None
    assert register(store, running, 2) is None
    assert store.jobs.get("a", running.id).pid == 7


def test_a_worker_that_has_lost_its_job_changes_nothing(store, running):
    assert died(store, running, 1) == "queued"
    assert start(store, running) == 2
    before = (store.jobs.get("a", running.id), messages(store, running))
    attempts = store.attempts
    assert not attempts.beat(running.id, 1, lease_until=FAR + 1)
    assert not attempts.announce(running.id, 1, steps=9, resumed_from=0)
    assert not attempts.saved(running.id, 1, 5)
    assert not attempts.note(running.id, 1, "late")
    assert attempts.release(running.id, 1, step=5, why="late") is None
    assert not attempts.finish(running.id, 1, JobOutcome(digest="d", bytes=1))
    assert died(store, running, 1) is None
    assert (store.jobs.get("a", running.id), messages(store, running)) == before
    assert store.models.page(EVERYONE, PageAsk()).data == []


def test_a_checkpoint_is_told_of_once_also_if_its_worker_could_not(store, running):
    store.attempts.announce(running.id, 1, steps=10, resumed_from=0)
    store.attempts.saved(running.id, 1, 3)
    store.attempts.saved(running.id, 1, 3)
    # The worker saved step 6, and was killed before it told so.
    died(store, running, 1, Death(step=6, cause="the worker was killed", counts=True))
    start(store, running)
    store.attempts.announce(running.id, 2, steps=10, resumed_from=6)
    assert messages(store, running)[3:] == [
        "Fine-tuning job started",
        "Checkpoint created at step 3",
        "Checkpoint created at step 6",
        "The worker was killed; going on from step 6",
        "Resumed from step 6",
    ]


def test_success_brings_model_and_figures_in_one_step_and_once(store, running):
    figures = ResultFile(filename="step_metrics.csv", bytes=3, sha256="cd" * 32)
    outcome = JobOutcome(trained_tokens=5, digest="d", bytes=9, result_file=figures)
    assert store.attempts.finish(running.id, 1, outcome)
    assert not store.attempts.finish(running.id, 1, outcome)
    job = store.jobs.get("a", running.id)
    assert (job.status, job.trained_tokens, job.pid) == ("succeeded", 5, None)
    (model,) = store.models.page("a", PageAsk()).data
    assert (model.name, model.job_id, model.digest) == (job.name, job.id, "d")
    file = store.files.get("a", job.result_file)
    assert (file.purpose, file.filename, file.status) == (
        "fine-tune-results",
        "step_metrics.csv",
        "processed",
    )
    assert messages(store, job)[-2:] == [
        f"New fine-tuned model created: {job.name}",
        "The job has successfully completed",
    ]


def test_failure_tells_why(store, running):
    error = {"code": "training_failed", "message": "loss is NaN at step 3", "param": None}
    assert store.attempts.finish(running.id, 1, JobOutcome(error=error))
    job = store.jobs.get("a", running.id)
    assert (job.status, job.error) == ("failed", error)
    assert messages(store, job)[-1] == "loss is NaN at step 3"
    assert store.models.page("a", PageAsk()).data == []


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ("pause", "paused", "Paused at step 4"),
        ("cancel", "cancelled", "The job was cancelled at step 4"),
        (None, "queued", "Stopped at step 4: the server ends"),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_a_stopped_worker_leaves_the_job_as_its_owner_wants_it(
    store, running, change, status, message, killed
):
    if change:
        getattr(store.jobs, change)("a", running.id)
    if killed and change:
        assert died(store, running, 1, Death(step=4, cause="x", counts=True)) == status
    else:
        assert store.attempts.release(running.id, 1, step=4, why="the server ends") == status
    job = store.jobs.get("a", running.id)
    assert (job.status, job.pid, job.lease_until) == (status, None, None)
    assert messages(store, job)[-2:] == ["Checkpoint created at step 4", message]


def test_three_deaths_in_a_row_without_a_checkpoint_end_a_job(store, running):
    for attempt, step in ((1, 0), (2, 0), (3, 5), (4, 5)):
        death = Death(step=step, cause="the worker was killed", counts=True)
        assert died(store, running, attempt, death) == "queued"
        assert start(store, running) == attempt + 1
    assert died(store, running, 5, Death(step=5, cause="it went", counts=True)) == "failed"
    error = store.jobs.get("a", running.id).error
    assert error["code"] == "worker_died"
    assert error["message"] == "it went 3 times in a row without a new checkpoint"


def test_deaths_that_are_not_the_jobs_fault_do_not_count(store, running):
    for attempt in range(1, 9):
        death = Death(step=0, cause="the machine was restarted", counts=False)
        assert died(store, running, attempt, death) == "queued"
        start(store, running)
    assert store.jobs.get("a", running.id).deaths == 0


def test_the_second_lack_of_memory_ends_a_job(store, running):
    death = Death(step=0, cause="memory ran out", counts=True, out_of_memory=True)
    assert died(store, running, 1, death) == "queued"
    start(store, running)
    assert died(store, running, 2, death) == "failed"
    assert store.jobs.get("a", running.id).error["code"] == "out_of_memory"


def test_the_time_of_workers_counts_for_their_tenants(store, running):
    began = time.time()
    time.sleep(0.05)
    assert store.attempts.beat(running.id, 1, lease_until=FAR)
    seconds = store.attempts.seconds_since(began - 100)["a"]
    assert 0.04 < seconds < time.time() - began + 10
    assert store.attempts.seconds_of(running.id) == pytest.approx(seconds)
    assert store.attempts.seconds_since(began + 1000) == {}


def test_one_supervisor_until_its_lease_ends_or_its_process_is_gone(store):
    assert take(store, "one")
    assert take(store, "one")
    assert not take(store, "two")
    assert store.supervisor.renew("one", FAR)
    assert not store.supervisor.renew("two", FAR)
    assert take(store, "two", ended=True)
    assert not store.supervisor.renew("one", FAR)
    assert store.supervisor.renew("two", time.time() - 1)
    assert take(store, "three")
    store.supervisor.leave("three", FAR)
    assert store.supervisor.get().lease_until == FAR
    assert take(store, "four")


def test_speeds_follow_what_is_measured(store):
    key = ("machine", "model", "lora", "float32", 2)
    assert store.speeds.find(*key) is None
    store.speeds.add(*key, seconds_per_token=1.0)
    store.speeds.add(*key, seconds_per_token=3.0)
    assert store.speeds.find(*key).seconds_per_token == pytest.approx(2.0)
    for _ in range(80):
        store.speeds.add(*key, seconds_per_token=5.0)
    assert store.speeds.find(*key).seconds_per_token == pytest.approx(5.0, abs=0.1)
