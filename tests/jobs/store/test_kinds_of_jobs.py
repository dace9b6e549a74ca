"""Jobs of every kind: that the tables take them, and what is said of them."""

import pytest
from job_helpers import add_job, messages
from sqlalchemy.exc import IntegrityError

from gossamer.errors import JobError
from gossamer.jobs.store.attempts import Death, JobOutcome, OutcomeModel
from gossamer.jobs.store.kinds import JOB_KINDS
from gossamer.jobs.store.records import SupervisorRecord
from gossamer.jobs.store.tables import KINDS, JobRow

FAR = 4e9


def begun(store, kind):
    """A job of that kind that has a worker."""
    row = SupervisorRecord(owner="o", place="here", pid=1, pid_started=1.0, lease_until=FAR)
    store.supervisor.take(row, lambda _: True)
    job = add_job(store, kind=kind)
    attempt = store.attempts.begin(job.id, "o", lease_until=FAR)
    store.attempts.announce(job.id, attempt, steps=None, resumed_from=0)
    return job


def test_the_table_takes_the_known_kinds_and_no_other(store):
    assert set(KINDS) == set(JOB_KINDS)
    jobs = [add_job(store, kind=kind) for kind in KINDS]
    assert [store.jobs.get("a", job.id).kind for job in jobs] == list(KINDS)
    with pytest.raises(IntegrityError), store.database.write() as session:
        session.get(JobRow, jobs[0].id).kind = "other"


def test_a_job_without_steps_is_not_paused_and_begins_again(store):
    job = begun(store, "verify")
    with pytest.raises(JobError, match="no step to stop at"):
        store.jobs.pause("a", job.id)
    death = Death(step=0, cause="the worker was killed", counts=True)
    assert store.attempts.died(job.id, 1, "o", death, max_deaths=3) == "queued"
    attempt = store.attempts.begin(job.id, "o", lease_until=FAR)
    store.attempts.announce(job.id, attempt, steps=None, resumed_from=0)
    assert store.attempts.release(job.id, attempt, step=0, why="the server stops") == "queued"
    assert messages(store, job)[-4:] == [
        "Verification started",
        "The worker was killed; going on from its start",
        "Started again",
        "Stopped: the server stops",
    ]


def test_a_job_may_leave_several_models_or_none(store):
    job = begun(store, "compare")
    models = tuple(
        OutcomeModel(name=f"ft:tiny:a:{each}:abcdefgh", digest=each, bytes=1, folder=f"jobs/{each}")
        for each in ("one", "two")
    )
    assert store.attempts.finish(job.id, 1, JobOutcome(models=models))
    assert {model.folder for model in store.models.of_job(job.id)} == {"jobs/one", "jobs/two"}
    store.models.delete("a", models[0].name)
    assert [model.name for model in store.models.of_job(job.id)] == [models[1].name]
    export = begun(store, "export")
    assert store.attempts.finish(export.id, 1, JobOutcome(result={}))
    assert store.models.of_job(export.id) == []
    assert messages(store, export)[-2:] == ["Export started", "The job has successfully completed"]
