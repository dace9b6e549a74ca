"""Where the room of jobs trains, and what it needs elsewhere."""

import subprocess
import sys

from house import sources

LIGHT = (
    "gossamer.training.settings",
    "gossamer.training.outputs.",
    "gossamer.training.comparison.entries",
    "gossamer.training.comparison.settings",
    "gossamer.training.evaluation.settings",
)
TRAINERS = ("jobs/worker/", "jobs/files/")


def test_only_workers_and_the_check_of_files_reach_training():
    wrong = [
        f"{source.name}: {name}"
        for source in sources()
        if source.room == "jobs" and not source.name.startswith(TRAINERS)
        for name in source.imports
        if name.startswith("gossamer.training") and not name.startswith(LIGHT)
    ]
    assert not wrong, wrong


def test_a_server_watches_over_jobs_without_the_packages_that_train():
    heavy = ("torch", "transformers", "peft", "trl", "datasets", "numpy")
    modules = [
        source.module
        for source in sources()
        if source.name.startswith(("jobs/supervise/", "jobs/queue/", "jobs/store/"))
        and "/migrations/" not in source.name
    ]
    code = (
        f"import sys, importlib\nfor name in {heavy}: sys.modules[name] = None\n"
        f"for name in {modules}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
