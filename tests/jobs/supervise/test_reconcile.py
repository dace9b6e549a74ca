"""What a crash has left between database and disk is mended, however often."""

import os
import time

import pytest
from job_helpers import add_job
from open_store import open_store
from worker_case import FAR, quick_settings, supervise

from gossamer.jobs.results.links import YOUNG_SECONDS
from gossamer.jobs.store.attempts import JobOutcome
from gossamer.jobs.supervise.reconcile import forget_old, reconcile


@pytest.fixture
def settings(tmp_path):
    return quick_settings(tmp_path)


@pytest.fixture
def store(settings):
    store = open_store(settings)
    supervise(store)
    yield store
    store.close()


def finished(store, settings):
    """A job whose adapter is there and whose row says so, and nothing else."""
    job = add_job(store)
    attempt = store.attempts.begin(job.id, "owner", lease_until=FAR)
    run = settings.folder.job(job.id).run
    run.mkdir(parents=True)
    (run / "adapter_config.json").write_text("{}")
    assert store.attempts.finish(job.id, attempt, JobOutcome(digest="d", bytes=1))
    return job


def names(settings):
    return sorted(os.listdir(settings.folder.served))


def test_missing_links_are_made_and_those_of_deleted_models_removed(store, settings):
    one, two = finished(store, settings), finished(store, settings)
    reconcile(store, settings)
    assert names(settings) == sorted([one.name, two.name])
    store.models.delete("a", one.name)
    reconcile(store, settings)
    reconcile(store, settings)
    assert names(settings) == [two.name]
    store.models.restore("a", one.name)
    reconcile(store, settings)
    assert names(settings) == sorted([one.name, two.name])
    assert settings.folder.link(one.name).resolve() == settings.folder.job(one.id).run


def test_a_deleted_model_is_in_the_trash_and_comes_back_under_both_names(store, settings):
    job = finished(store, settings)
    store.models.rename("a", job.name, "pirate")
    reconcile(store, settings)
    assert names(settings) == sorted([job.name, "pirate"])
    run = settings.folder.job(job.id).run
    assert settings.folder.link("pirate").resolve() == run
    store.models.delete("a", "pirate")
    reconcile(store, settings)
    assert names(settings) == []
    assert (settings.folder.trash / job.name).resolve() == run
    store.models.restore("a", job.name)
    reconcile(store, settings)
    assert names(settings) == sorted([job.name, "pirate"])
    assert os.listdir(settings.folder.trash) == []


def test_the_former_link_of_a_renamed_model_goes_once_it_is_old(store, settings):
    job = finished(store, settings)
    store.models.rename("a", job.name, "pirate")
    reconcile(store, settings)
    store.models.rename("a", job.name, "parrot")
    reconcile(store, settings)
    link = settings.folder.link("pirate")
    assert link.is_symlink(), "a server may be about to give it to another model"
    old = time.time() - 2 * YOUNG_SECONDS
    os.utime(link, (old, old), follow_symlinks=False)
    reconcile(store, settings)
    assert names(settings) == sorted([job.name, "parrot"])


def test_a_link_without_a_model_goes_once_none_is_about_to_come(store, settings):
    job = add_job(store)
    link = settings.folder.link(job.name)
    link.symlink_to(f"../jobs/{job.id}/run")
    reconcile(store, settings)
    assert names(settings) == [job.name]
    old = time.time() - 2 * YOUNG_SECONDS
    os.utime(link, (old, old), follow_symlinks=False)
    reconcile(store, settings)
    assert names(settings) == []


def test_links_that_are_no_models_stay(store, settings):
    job = finished(store, settings)
    served = settings.folder.served
    (served / "pirate").symlink_to(job.name)
    (served / f"{job.name}:ckpt-step-3").symlink_to(f"../jobs/{job.id}/run/checkpoints/step-3")
    (served / ".ft:half.1.tmp").symlink_to("../jobs/x/run")
    reconcile(store, settings)
    assert names(settings) == sorted(["pirate", job.name, f"{job.name}:ckpt-step-3"])


def test_what_leaves_no_adapter_gets_no_link(store, settings):
    job = finished(store, settings)
    (settings.folder.job(job.id).run / "adapter_config.json").unlink()
    reconcile(store, settings)
    assert names(settings) == []


def test_deleted_models_and_cancelled_runs_go_after_some_days(store, settings):
    kept, gone = finished(store, settings), finished(store, settings)
    store.models.delete("a", gone.name)
    cancelled = add_job(store)
    store.jobs.cancel("a", cancelled.id)
    run = settings.folder.job(cancelled.id).run
    run.mkdir(parents=True)
    forget_old(store, settings, time.time() + 6 * 86400)
    assert run.exists()
    assert settings.folder.job(gone.id).run.exists()
    forget_old(store, settings, time.time() + 8 * 86400)
    assert not run.exists()
    assert not settings.folder.job(gone.id).run.exists()
    assert settings.folder.job(kept.id).run.exists()
    assert [model.name for model in store.models.all()] == [kept.name]
