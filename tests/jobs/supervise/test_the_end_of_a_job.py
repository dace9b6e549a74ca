"""Who hears that a job has succeeded finds its model; of a job that was lost nothing is found."""

import pytest
from job_helpers import add_job
from open_store import open_store
from worker_case import FAR, quick_settings, supervise

from gossamer.errors import StorageError
from gossamer.jobs.outcome import finish, write_outcome
from gossamer.jobs.store.attempts import JobOutcome, ResultFile


@pytest.fixture
def settings(tmp_path):
    return quick_settings(tmp_path)


@pytest.fixture
def store(settings):
    store = open_store(settings)
    supervise(store)
    yield store
    store.close()


@pytest.fixture
def decided(store, settings):
    """A running job whose outcome is on the disk, its first attempt, and its link."""
    job = add_job(store)
    attempt = store.attempts.begin(job.id, "owner", lease_until=FAR)
    paths = settings.folder.job(job.id)
    paths.run.mkdir(parents=True)
    (paths.run / "adapter_config.json").write_text("{}")
    (paths.run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    file = ResultFile(filename="step_metrics.csv", bytes=1, sha256="ab" * 32)
    write_outcome(paths, JobOutcome(digest="d", bytes=1, result_file=file))
    return job, attempt, settings.folder.link(job.name)


def test_the_link_is_there_before_the_status(store, settings, decided, monkeypatch):
    job, attempt, link = decided
    tell = store.attempts.finish
    seen = []

    def watched(*args):
        seen.append((link.resolve(), store.jobs.get("a", job.id).status))
        return tell(*args)

    monkeypatch.setattr(store.attempts, "finish", watched)
    assert finish(store, settings.folder, job.id, attempt)
    assert seen == [(settings.folder.job(job.id).run, "running")]
    assert store.jobs.get("a", job.id).status == "succeeded"
    assert not finish(store, settings.folder, job.id, attempt)
    assert link.exists()


def test_an_attempt_that_is_over_shows_nothing(store, settings, decided):
    job, attempt, link = decided
    assert not finish(store, settings.folder, job.id, attempt + 1)
    assert not link.is_symlink()


@pytest.mark.parametrize("end", ["lost", "failed"])
def test_a_job_that_is_lost_in_the_last_moment_leaves_no_link(
    store, settings, decided, end, monkeypatch
):
    job, attempt, link = decided

    def lost(*args):
        assert link.is_symlink()
        if end == "failed":
            raise StorageError("the database is away")
        return False

    monkeypatch.setattr(store.attempts, "finish", lost)
    if end == "failed":
        with pytest.raises(StorageError):
            finish(store, settings.folder, job.id, attempt)
    else:
        assert not finish(store, settings.folder, job.id, attempt)
    assert not link.is_symlink()
