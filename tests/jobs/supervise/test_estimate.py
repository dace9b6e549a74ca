"""What jobs would take is known before they start, where it matters."""

import pytest
from job_helpers import add_job
from kills_case import until
from open_store import open_store
from worker_case import add_training, quick_settings

from gossamer.errors import JobError
from gossamer.jobs.queue.needs import GIB, MachineRoom
from gossamer.jobs.store.scoped import EVERYONE
from gossamer.jobs.supervise import estimate as estimate_module
from gossamer.jobs.supervise.estimate import Estimates, Estimator
from gossamer.jobs.supervise.room import host_memory


@pytest.fixture
def settings(tmp_path):
    return quick_settings(tmp_path)


@pytest.fixture
def store(settings):
    store = open_store(settings)
    yield store
    store.close()


class Fixed:
    """Gives the same answer for each job, and notes whom it was asked for."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def of_job(self, job):
        self.asked.append(job.id)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def look_until(estimates, store, jobs, condition):
    def look():
        estimates.look([store.jobs.get(EVERYONE, job.id) for job in jobs])
        return condition()

    until(look)


def test_each_job_without_an_estimate_gets_one_and_is_asked_for_once(store, settings):
    known = add_job(store, estimate={"memory": 1})
    jobs = [add_job(store), known, add_job(store)]
    fixed = Fixed({"memory": 5, "disk": 6})
    estimates = Estimates(store, settings, fixed)
    wanted = {jobs[0].id, jobs[2].id}
    look_until(
        estimates,
        store,
        jobs,
        lambda: all(store.jobs.get(EVERYONE, id).estimate == fixed.answer for id in wanted),
    )
    assert sorted(fixed.asked) == sorted(wanted)
    assert store.jobs.get(EVERYONE, known.id).estimate == {"memory": 1}


def test_a_comparison_that_runs_is_estimated_and_a_lone_run_is_not(watched):
    fixed = Fixed({"memory": 5, "disk": 6})
    one = watched(options={"estimator": fixed})
    run = add_job(one.store)
    for _ in range(3):
        one.supervisor.look()
    one.children[0].kill()
    one.store.jobs.cancel("a", run.id)
    one.look_until(lambda: one.row(run).status == "cancelled")
    comparison = add_job(one.store, kind="compare")
    one.look_until(lambda: one.row(comparison).estimate == fixed.answer)
    assert one.row(comparison).status == "running"
    assert fixed.asked == [comparison.id]


def test_a_job_that_could_never_fit_is_refused(store, settings, monkeypatch):
    small = MachineRoom(
        memory_total=4 * GIB, memory_free=GIB, disk_total=GIB, disk_free=GIB, disk_floor=1
    )
    monkeypatch.setattr(estimate_module, "measure", lambda settings: small)
    job = add_job(store)
    estimates = Estimates(store, settings, Fixed({"memory": 8 * GIB, "disk": 1}))
    look_until(estimates, store, [job], lambda: store.jobs.get(EVERYONE, job.id).status == "failed")
    error = store.jobs.get(EVERYONE, job.id).error
    assert error["code"] == "capacity_exceeded"
    assert "needs about 9.2 GiB of memory" in error["message"]


def test_what_a_job_takes_of_a_gpu_is_not_taken_of_the_machine():
    parts = {"process": 7}
    assert host_memory(None) is None
    assert host_memory({}) is None
    assert host_memory({"memory": 90, "device": "cpu", "memory_parts": parts}) == 90
    assert host_memory({"memory": 90, "device": "cuda", "memory_parts": parts}) == 7


def test_a_job_that_has_no_estimate_is_not_asked_for_again(store, settings):
    job = add_job(store)
    fixed = Fixed(JobError("odd rows", code="invalid_file"))
    estimates = Estimates(store, settings, fixed)
    look_until(estimates, store, [job], lambda: fixed.asked)
    until(lambda: not estimates._thread.is_alive())
    estimates.look([job])
    assert fixed.asked == [job.id]
    assert store.jobs.get(EVERYONE, job.id).status == "queued"


@pytest.mark.slow
def test_a_process_tells_what_a_run_takes(store, settings, tiny_model, tmp_path):
    job = add_training(store, settings, tiny_model, tmp_path, estimate=False)
    found = Estimator(store, settings).of_job(job)
    assert found["steps"] == 12
    assert found["rows"] == 20
    assert found["eval_rows"] == 4
    assert found["memory"] == sum(found["memory_parts"].values())
    assert found["adapter_bytes"] == 4 * found["trainable"] > 0
    assert found["disk"] > found["adapter_bytes"]
    assert found["seconds"] is None
    least, most = found["seconds_range"]
    assert 0 < least < most


def test_time_is_told_once_a_run_of_that_kind_was_measured(store, settings, monkeypatch):
    answer = {"tokens": 100, "epochs": 2.0, "dtype": "float32", "machine": "m", "threads": 3}
    answer["seconds_range"] = [20.0, 90.0]
    monkeypatch.setattr(Estimator, "_answer", lambda self, run, rows: dict(answer))
    ask = {"model": "tiny", "run": {"method": "lora"}, "rows": {}}
    estimator = Estimator(store, settings)
    guessed = estimator.ask(**ask)
    assert (guessed["seconds"], guessed["seconds_range"]) == (None, [20.0, 90.0])
    store.speeds.add("m", "tiny", "lora", "float32", 3, seconds_per_token=0.5)
    measured = estimator.ask(**ask)
    assert (measured["seconds"], measured["seconds_range"]) == (100.0, None)
    assert "machine" not in estimator.ask(**ask)


def test_a_run_that_cannot_be_is_refused_with_its_reason(store, settings, monkeypatch):
    answer = {"error": "row 3: no completion", "kind": "invalid_file"}
    monkeypatch.setattr(Estimator, "_answer", lambda self, run, rows: answer)
    with pytest.raises(JobError, match="row 3: no completion") as refused:
        Estimator(store, settings).ask("tiny", {"method": "lora"}, {})
    assert refused.value.code == "invalid_file"
    assert refused.value.param == "training_file"
