"""The folder of a comparison: what lies where, and writing a file whole."""

import json
from pathlib import Path
from typing import Any

from gossamer.durable import write_whole
from gossamer.training.comparison.entries import Entry

SETTINGS = "compare.yaml"
RESULTS = "results.json"
TABLE = "table.md"
SCORES = "scores.png"
CURVES = "curves.png"
PLAN, BASE = "plan", "base"
_OUTCOME, _JOB, _FAILURE = "outcome.json", "job.json", "failure.json"


class JobFolder:
    """What one process is told and leaves behind, in `OUTPUT/jobs/NAME`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job = path / _JOB
        self.log = path / "log.txt"
        self.lock = path / ".lock"
        self.progress = path / "progress.jsonl"
        """Batches of the evaluation that are done."""
        self.evaluation = path / "evaluation.json"
        self.memory = path / "memory.json"
        """Peak memory of training, noted before the evaluation begins."""

    def outcome(self) -> dict[str, Any] | None:
        """What came out; None: not finished."""
        return read_json(self.path / _OUTCOME)

    def finish(self, outcome: dict[str, Any]) -> None:
        """Note what came out."""
        write_json(self.path / _OUTCOME, outcome)
        (self.path / _FAILURE).unlink(missing_ok=True)

    def forget(self) -> None:
        """Make the job one that has not been done."""
        (self.path / _OUTCOME).unlink(missing_ok=True)

    def failure(self) -> str | None:
        """Why it failed; None: it did not."""
        found = read_json(self.path / _FAILURE)
        return None if found is None else str(found["reason"])

    def fail(self, reason: str) -> None:
        """Note why it failed."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / _FAILURE, {"reason": reason})


class Layout:
    """Paths below the folder `root` of a comparison."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def job(self, name: str) -> JobFolder:
        """The folder of the job `name`."""
        return JobFolder(self.root / "jobs" / name)

    def training(self, entry: Entry, seed: int) -> JobFolder:
        """The folder of the job that trains `entry` with `seed`."""
        return self.job(f"{entry.folder}-seed{seed}")

    def timing(self, entry: Entry) -> JobFolder:
        """The folder of the job that measures the speed of `entry`."""
        return self.job(f"{entry.folder}-timing")

    def run(self, entry: Entry, seed: int) -> Path:
        """The run folder, with the adapter."""
        return self.root / "runs" / f"{entry.folder}-seed{seed}"


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of `path`, or None if there is no such file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `path`, all or nothing."""
    write_whole(path, json.dumps(content, indent=1) + "\n")
