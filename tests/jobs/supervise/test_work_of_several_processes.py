"""Workers that have started processes of their own: what they take, and signals to all of them."""

import signal
import subprocess
import sys

import psutil
import pytest
from job_helpers import add_job
from kills_case import until
from open_store import open_store
from worker_case import quick_settings

from gossamer.jobs.kinds.compare import parse_comparison, resolve_comparison
from gossamer.jobs.queue.needs import GIB
from gossamer.jobs.supervise.attend import Watch
from gossamer.jobs.supervise.estimate import Estimator
from gossamer.jobs.supervise.room import descendants, memory_of

SLEEP = "import time; time.sleep(600)"
PARENT = (
    "import subprocess, sys\n"
    f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)\n"
    "print(child.pid, flush=True)\n"
    "child.wait()"
)


@pytest.fixture
def family():
    """A process that has started another one, and the number of that."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        child = int(parent.stdout.readline())
        yield parent, child
        for pid in (child, parent.pid):
            if psutil.pid_exists(pid):
                psutil.Process(pid).kill()


def test_a_worker_stops_goes_on_and_ends_with_what_it_started(family):
    parent, child = family
    watch = Watch(child=parent)

    def are(status):
        return all(psutil.Process(pid).status() == status for pid in (parent.pid, child))

    assert descendants(parent.pid) == [child]
    assert memory_of(parent.pid) > memory_of(child) > 0
    watch.signal(signal.SIGSTOP)
    until(lambda: are(psutil.STATUS_STOPPED))
    watch.signal(signal.SIGCONT)
    until(lambda: are(psutil.STATUS_SLEEPING))
    watch.signal(signal.SIGKILL)
    until(lambda: watch.has_ended() and not psutil.pid_exists(child))


@pytest.fixture
def store(tmp_path):
    store = open_store(quick_settings(tmp_path))
    yield store
    store.close()


def test_a_comparison_takes_what_its_largest_run_does_and_the_time_of_all(
    store, tmp_path, monkeypatch
):
    run = {"rows": 9, "tokens": 90, "device": "cpu", "steps": 6, "memory_parts": {"process": 1}}
    answers = {
        "lora": {**run, "memory": 2 * GIB, "disk": 100, "adapter_bytes": 10, "seconds": 5.0},
        "full": {**run, "memory": 4 * GIB, "disk": 900, "adapter_bytes": 80, "seconds": 7.0},
    }
    asked = []

    def ask(self, model, values, rows):
        asked.append((values["method"], values["data"], list(rows)))
        return answers[values["method"]]

    monkeypatch.setattr(Estimator, "ask", ask)
    body = {
        "model": "tiny",
        "training_file": f"file-{'a' * 24}",
        "methods": [{"method": name} for name in answers],
        "seeds": [0, 1],
    }
    resolved = resolve_comparison(
        parse_comparison(body), base="/base", tenant="a", name="tiny", endings=(".csv", ".csv")
    )
    job = add_job(store, kind="compare", resolved={"compare": resolved})
    found = Estimator(store, quick_settings(tmp_path)).of_job(job)
    assert asked == [(name, "data/all.csv", ["data/all.csv"]) for name in answers]
    assert 4 * GIB < found["memory"] < 5 * GIB
    assert (found["steps"], found["seconds"]) == (24, 24.0)
    assert found["disk"] > 900 + 2 * (10 + 80)
    assert found["entries"]["lora"] == answers["lora"]


def test_proofs_and_exports_are_judged_by_the_sizes_of_files(store, tmp_path):
    settings = quick_settings(tmp_path)
    base, adapter = tmp_path / "base", settings.folder.link("x")
    for folder, size in ((base, 1_000_000), (adapter, 1000)):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(size))
    (base / "config.json").write_text('{"dtype": "bfloat16"}')
    about = {"base": str(base), "model": "x"}
    estimator = Estimator(store, settings)
    needs = {}
    for name, kind, more in (
        ("proof", "verify", {}),
        ("merged", "export", {"format": "merged"}),
        ("lora", "export", {"format": "lora"}),
    ):
        job = add_job(store, kind=kind, resolved={kind: {**about, **more}})
        needs[name] = estimator.of_job(job)
    assert needs["merged"]["disk"] - needs["lora"]["disk"] == 1_000_000 + 1000 - 4 * 1000
    assert needs["proof"]["memory"] > needs["merged"]["memory"] > needs["lora"]["memory"]
    assert all(each["memory"] < 2 * GIB for each in needs.values())
