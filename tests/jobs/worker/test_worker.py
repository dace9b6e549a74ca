"""The process of an attempt: from a queued job to a served adapter, and what happens between."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from job_helpers import messages
from kills_case import is_alive, until
from open_store import open_store
from worker_case import FAR, add_training, figures_of, quick_settings, supervise

from gossamer.jobs.outcome import read_outcome
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store.attempts import Death
from gossamer.jobs.store.jobs import JobTable
from gossamer.jobs.store.scoped import EVERYONE
from gossamer.jobs.supervise.launch import ProcessLauncher
from gossamer.jobs.worker.prompt_store import PromptStore
from gossamer.jobs.worker.surroundings import give_way, machine_name


class Bench:
    """A store, a job, and workers that are started by hand."""

    def __init__(self, nursery, tmp_path, **changes):
        self.settings = quick_settings(tmp_path, **changes)
        self.store = open_store(self.settings)
        self.nursery, self.folder = nursery, tmp_path
        supervise(self.store)

    def add(self, **training):
        return add_training(self.store, self.settings, self.nursery.model, self.folder, **training)

    def begin(self, job):
        return self.store.attempts.begin(job.id, "owner", lease_until=FAR)

    def start(self, job, attempt=None):
        """Start a worker and return its number."""
        attempt = self.begin(job) if attempt is None else attempt
        zygote = self.nursery.zygote.with_settings(self.settings)
        return zygote(self.paths(job), attempt).pid

    def work(self, job, attempt=None):
        """Let a worker live to its end."""
        pid = self.start(job, attempt)
        until(lambda: not is_alive(pid))
        return self.row(job)

    def row(self, job):
        return self.store.jobs.get(EVERYONE, job.id)

    def paths(self, job):
        return self.settings.folder.job(job.id)

    def steps(self, job):
        path = self.paths(job).run / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def log(self, job):
        return self.paths(job).log.read_text()


@pytest.fixture
def bench(nursery, tmp_path):
    bench = Bench(nursery, tmp_path)
    yield bench
    bench.store.close()


def check_success(bench, job):
    row = bench.row(job)
    assert row.status == "succeeded", bench.log(job)
    assert figures_of(bench.paths(job).run) == figures_of(bench.nursery.whole)
    assert bench.settings.folder.link(row.name).resolve() == bench.paths(job).run.resolve()
    return row


def test_a_job_becomes_a_served_adapter_with_its_figures(bench):
    job = bench.add()
    bench.work(job)
    row = check_success(bench, job)
    assert messages(bench.store, job)[3:] == [
        "Fine-tuning job started",
        *(f"Checkpoint created at step {step}" for step in (3, 6, 9, 12)),
        f"New fine-tuned model created: {row.name}",
        "The job has successfully completed",
    ]
    assert row.steps == 12
    assert row.trained_tokens == sum(f.get("tokens", 0) for f in figures_of(bench.nursery.whole))
    model = bench.store.models.get("a", row.name)
    weights = bench.paths(job).run / "adapter_model.safetensors"
    assert model.bytes == weights.stat().st_size
    assert model.digest == read_outcome(bench.paths(job)).digest
    file = bench.store.files.get("a", row.result_file)
    content = bench.settings.folder.blob(file.sha256).read_text()
    assert len(content) == file.bytes
    table = list(csv.DictReader(io.StringIO(content)))
    assert [line["step"] for line in table] == [str(n) for n in range(13)]
    assert [line["full_valid_loss"] != "" for line in table] == [n % 4 == 0 for n in range(13)]
    assert table[0]["train_loss"] == ""
    assert table[4]["valid_loss"] == table[4]["full_valid_loss"]
    speed = bench.store.speeds.find(machine_name(), "tiny", "lora", "float32", 1)
    assert speed.samples == 1
    assert list(bench.settings.folder.scratch.iterdir()) == []


def test_the_record_of_the_run_tells_no_place_of_the_server(bench):
    job = bench.add()
    bench.work(job)
    record = (bench.paths(job).run / "run.yaml").read_text()
    assert str(bench.settings.folder.root) not in record
    assert "data: data/train.jsonl" in record


@pytest.mark.parametrize(
    ("change", "status"), [("pause", "paused"), ("cancel", "cancelled"), (None, "queued")]
)
def test_a_worker_that_is_asked_to_stop_saves_and_gives_the_job_back(bench, change, status):
    job = bench.add(max_steps=2000, save_every=1000)
    pid = bench.start(job)
    until(lambda: bench.steps(job) >= 2)
    if change:
        getattr(bench.store.jobs, change)("a", job.id)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not is_alive(pid))
    row = bench.row(job)
    assert row.status == status, bench.log(job)
    assert row.saved_step >= 1
    assert (bench.paths(job).run / "checkpoints" / f"step-{row.saved_step}").is_dir()
    assert f"step {row.saved_step}" in messages(bench.store, job)[-1]
    assert read_outcome(bench.paths(job)) is None


def test_a_worker_that_has_lost_its_job_says_nothing_and_the_next_one_goes_on(bench):
    job = bench.add()
    pid = bench.start(job)
    until(lambda: bench.steps(job) >= 3)
    os.kill(pid, signal.SIGSTOP)
    death = Death(step=0, cause="the worker gave no sign of life", counts=True)
    assert bench.store.attempts.died(job.id, 1, "owner", death, max_deaths=9) == "queued"
    second = bench.start(job)
    os.kill(pid, signal.SIGCONT)
    until(lambda: not is_alive(pid))
    until(lambda: not is_alive(second))
    check_success(bench, job)
    said = messages(bench.store, job)
    assert said.count("The job has successfully completed") == 1
    checkpoints = [message for message in said if message.startswith("Checkpoint")]
    assert len(checkpoints) == len(set(checkpoints)) == 4


def test_an_attempt_that_is_over_does_nothing(bench):
    job = bench.add()
    assert bench.begin(job) == 1
    bench.work(job, attempt=7)
    assert bench.steps(job) == 0
    assert bench.row(job).pid is None


def test_a_worker_without_a_server_gives_its_job_back_after_a_while(nursery, tmp_path):
    bench = Bench(nursery, tmp_path, orphan_seconds=1.0)
    job = bench.add(max_steps=2000)
    attempt = bench.begin(job)
    bench.store.supervisor.renew("owner", time.time())
    bench.work(job, attempt)
    assert bench.row(job).status == "queued", bench.log(job)
    assert "no server has run for" in messages(bench.store, job)[-1]
    bench.store.close()


def killed_after(bench, left_out):
    """A running job whose worker was killed when all but some last files were written."""
    done, job = bench.add(), bench.add()
    bench.work(done)
    shutil.copytree(bench.paths(done).run, bench.paths(job).run)
    shutil.copy(bench.paths(done).outcome, bench.paths(job).outcome)
    for name in left_out:
        (bench.paths(job).root / name).unlink()
    return job


@pytest.mark.parametrize("left_out", [(), pytest.param(("outcome.json",), marks=pytest.mark.slow)])
def test_what_was_done_before_a_crash_is_not_done_again(bench, left_out):
    job = killed_after(bench, left_out)
    metrics = bench.paths(job).run / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns
    bench.work(job)
    check_success(bench, job)
    assert metrics.stat().st_mtime_ns == before
    assert read_outcome(bench.paths(job)) is not None


def test_a_run_that_was_killed_before_it_had_written_what_it_is_begins_again(bench):
    job = bench.add()
    bench.paths(job).run.mkdir()
    (bench.paths(job).run / "metrics.jsonl").touch()
    bench.work(job)
    check_success(bench, job)


def test_figures_that_were_swept_before_the_job_ended_are_kept_again(bench):
    job = killed_after(bench, ())
    file = read_outcome(bench.paths(job)).result_file
    bench.settings.folder.blob(file.sha256).unlink()
    row = bench.work(job)
    kept = bench.store.files.get("a", check_success(bench, row).result_file)
    assert bench.settings.folder.blob(kept.sha256).stat().st_size == kept.bytes


def test_rows_that_cannot_be_used_fail_the_job_with_their_reason(bench):
    job = bench.add(data_format="messages")
    row = bench.work(job)
    assert row.status == "failed", bench.log(job)
    assert row.error["code"] == "invalid_file"
    assert row.error["param"] == "training_file"
    assert "messages" in row.error["message"]
    assert messages(bench.store, job)[-1] == row.error["message"]
    assert json.loads(bench.paths(job).outcome.read_text())["error"] == row.error


def test_a_run_that_diverges_fails_with_a_remedy(bench):
    row = bench.work(bench.add(learning_rate=1e30, max_grad_norm=0.0))
    assert row.status == "failed"
    assert row.error["code"] == "training_failed"
    assert "learning_rate" in row.error["message"]


@pytest.mark.slow
def test_a_worker_is_a_program_that_needs_no_server(bench):
    job = bench.add(max_steps=2)
    child = ProcessLauncher(bench.settings)(bench.paths(job), bench.begin(job))
    assert child.wait(timeout=240) == 0, bench.log(job)
    assert bench.row(job).status == "succeeded"
    assert bench.row(job).steps == 2


def in_a_child(answer):
    """What `answer` returns in a process of its own, whose priority and limits then end with it."""
    inside, outside = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = answer()
        except BaseException as error:
            told = repr(error)
        os.write(outside, json.dumps(told).encode())
        os._exit(0)
    os.close(outside)
    with os.fdopen(inside) as told:
        answered = json.load(told)
    os.waitpid(child, 0)
    return answered


def priority(_=None):
    return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)


def test_a_worker_gives_way_to_everything_else():
    def answer():
        give_way(JobsSettings())
        return [*priority(), Path("/proc/self/oom_score_adj").read_text().strip()]

    policy, niceness, score = in_a_child(answer)
    assert policy == os.SCHED_IDLE or niceness == 19
    assert score == "800"


def test_the_database_is_asked_at_the_priority_of_the_beginning(tmp_path, monkeypatch):
    """Else a worker that gets no processor would keep the lock that the server needs."""
    settings = JobsSettings(data_dir=str(tmp_path / "data"))
    open_store(settings).close()
    monkeypatch.setattr(JobTable, "told", priority, raising=False)

    def answer():
        before = priority()
        store = PromptStore.join(settings)
        give_way(settings)
        return [before, store.jobs.told(), priority()]

    before, asked, after = in_a_child(answer)
    assert asked == before != after


def test_a_process_that_only_reads_has_a_limit_of_memory():
    code = (
        "from gossamer.jobs.worker import surroundings\n"
        "size = 3 * 2**29\n"
        "assert len(bytearray(size)) == size\n"
        "surroundings.usable_memory = lambda: 0\n"
        "surroundings.bound_memory()\n"
        "try:\n    bytearray(size)\nexcept MemoryError:\n    print('too much')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "too much\n", done.stderr
