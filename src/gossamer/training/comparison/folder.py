"""The folder of a comparison: what lies where, and the record of what it belongs to."""

import json
from pathlib import Path
from typing import Any

import yaml

from gossamer.errors import SettingError
from gossamer.files import write_whole
from gossamer.training.comparison.entries import Entry
from gossamer.training.comparison.settings import CompareSettings
from gossamer.training.outputs.samples import FILE as SAMPLES

SETTINGS = "compare.yaml"
RESULTS = "results.json"
TABLE = "table.md"
SCORES = "scores.png"
CURVES = "curves.png"
PLAN, BASE = "plan", "base"
_OUTCOME, _JOB, _FAILURE = "outcome.json", "job.json", "failure.json"


class JobFolder:
    """The folder `OUTPUT/jobs/NAME`: what one process is told and what it leaves behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job = path / _JOB
        self.log = path / "log.txt"
        self.lock = path / ".lock"
        self.progress = path / "progress.jsonl"
        """The file with the batches of the evaluation that are done."""
        self.evaluation = path / "evaluation.json"
        self.memory = path / "memory.json"
        """The file with training's peak memory, noted before the evaluation begins."""
        self.samples = path / SAMPLES
        """The file with the model's answers to some held-out prompts, where samples are wanted."""

    def outcome(self) -> dict[str, Any] | None:
        """Return what the job produced; None if it is not finished."""
        return read_json(self.path / _OUTCOME)

    def finish(self, outcome: dict[str, Any]) -> None:
        """Record what the job produced."""
        write_json(self.path / _OUTCOME, outcome)
        (self.path / _FAILURE).unlink(missing_ok=True)

    def forget(self) -> None:
        """Make the job one that has not been done."""
        (self.path / _OUTCOME).unlink(missing_ok=True)

    def failure(self) -> str | None:
        """Return why the job failed; None if it did not."""
        found = read_json(self.path / _FAILURE)
        return None if found is None else str(found["reason"])

    def fail(self, reason: str) -> None:
        """Record why the job failed."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / _FAILURE, {"reason": reason})


class Layout:
    """The paths below the folder `root` of a comparison."""

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
        return self.job(f"{entry.timing_folder}-timing")

    def run(self, entry: Entry, seed: int) -> Path:
        """The run folder of a job, with the adapter."""
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


_HEAD = "# Asking for the same comparison again goes on with what is missing.\n"
# What may differ without a change to any result.
_FREE_TO_CHANGE = {"output"}


def open_folder(root: Path, settings: CompareSettings) -> None:
    """Make `root` the folder of `settings`, or go on with it.

    Raises `SettingError` if it holds another comparison, or something else.
    """
    if root.exists() and not root.is_dir():
        raise SettingError(f"--output {root} is a file; give a folder")
    recorded = _read(root)
    if recorded is None:
        if root.is_dir() and any(entry.name != ".lock" for entry in root.iterdir()):
            raise SettingError(
                f"--output {root} is not empty and holds no comparison; choose another folder"
            )
        _write(root, settings, {})
        return
    before = recorded.get("settings", {})
    now = settings.model_dump(mode="json")
    for name in sorted(set(now) - _FREE_TO_CHANGE):
        if before.get(name) != now[name]:
            raise SettingError(
                f"--output {root} holds a comparison with {name}={before.get(name)!r}, not "
                f"{now[name]!r}; ask for the same again to go on with it, or choose another folder"
            )


def check_facts(root: Path, settings: CompareSettings, facts: dict[str, Any]) -> None:
    """Note what the first plan found; raise `SettingError` if it no longer holds."""
    before = (_read(root) or {}).get("facts") or {}
    if not before:
        _write(root, settings, facts)
        return
    if before["base_fingerprint"] != facts["base_fingerprint"]:
        raise SettingError(
            f"base model '{settings.model}' has changed since the comparison in {root} began; "
            "choose another folder"
        )
    for name, digest in facts["data_sha256"].items():
        if before["data_sha256"].get(name, digest) != digest:
            raise SettingError(
                f"data file '{name}' has changed since the comparison in {root} began; choose "
                "another folder"
            )
    if before["steps"] != facts["steps"]:
        raise SettingError(
            f"{root / SETTINGS} was edited: the comparison began with {before['steps']} steps a "
            f"run, now they are {facts['steps']}; choose another folder"
        )


def read_facts(root: Path) -> dict[str, Any]:
    """Read what the first plan found."""
    return (_read(root) or {}).get("facts") or {}


def _write(root: Path, settings: CompareSettings, facts: dict[str, Any]) -> None:
    content = {"settings": settings.model_dump(mode="json"), "facts": facts}
    write_whole(root / SETTINGS, _HEAD + yaml.safe_dump(content, sort_keys=False))


def _read(root: Path) -> dict[str, Any] | None:
    path = root / SETTINGS
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict):
        raise SettingError(f"{path} is damaged; choose another folder for the comparison")
    return content
