"""What is shown of jobs that are no tuning run, and of what they have found."""

import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.kinds.compare import run_folder
from gossamer.jobs.outcome import read_outcome
from gossamer.jobs.run_files import SAMPLES
from gossamer.jobs.store.records import JobRecord

MAX_KEPT = 1000
"""Jobs whose results are kept in memory."""

Shown = dict[str, Any]


class JobResults:
    """What jobs have found, from their folders. From any thread; it reads files."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Shown | None] = OrderedDict()

    def of(self, job: JobRecord) -> Shown | None:
        """The result of a job; None: it has none, or has not succeeded."""
        if job.status != "succeeded":
            return None
        with self._lock:
            if job.id in self._kept:
                self._kept.move_to_end(job.id)
                return self._there(job, self._kept[job.id])
        outcome = read_outcome(self._folder.job(job.id))
        found = None if outcome is None else outcome.result
        with self._lock:
            self._kept[job.id] = found
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return self._there(job, found)

    def _there(self, job: JobRecord, found: Shown | None) -> Shown | None:
        """The result without an export that has been removed since."""
        if found is None or "export" not in found:
            return found
        is_there = (self._folder.export(job.id) / found["export"]["name"]).is_dir()
        return {**found, "export": {**found["export"], "is_there": is_there}}


def work_fields(job: JobRecord, result: Shown | None) -> Shown:
    """The fields that a job has beside OpenAI's: its kind, and what that kind is about."""
    shown: Shown = {"kind": job.kind, "result": result}
    if job.kind == "compare":
        found = job.resolved["compare"]
        shown["comparison"] = {
            "methods": [entry["name"] for entry in found["entries"]],
            "entries": [{"method": e["method"], **e["settings"]} for e in found["entries"]],
            "seeds": found["settings"]["seeds"],
            "held_out": found["held_out"],
        }
    elif job.kind in ("verify", "export"):
        shown["target"] = job.name
        if job.kind == "export":
            shown["format"] = job.resolved["export"]["format"]
    return shown


def comparison_object(job: JobRecord, folder: DataFolder, result: Shown | None) -> Shown:
    """Show a comparison run by run, as far as it is."""
    found = job.resolved["compare"]
    output = folder.job(job.id).root / found["settings"]["output"]
    outcomes = output / "jobs"
    models = (result or {}).get("models", {})
    base = _read(outcomes / "base" / "outcome.json")
    runs = []
    for entry in found["entries"]:
        for seed in found["settings"]["seeds"]:
            name = run_folder(entry["folder"], seed)
            done = _read(outcomes / name / "outcome.json")
            failed = _read(outcomes / name / "failure.json")
            runs.append(
                {
                    "id": name,
                    "label": entry["label"],
                    "name": entry["name"],
                    "adapter": {"method": entry["method"], **entry["settings"]},
                    "seed": seed,
                    "status": _status(job, done, failed, output / "runs" / name),
                    "error": None if done or not failed else failed["reason"],
                    "model": models.get(name),
                    "figures": done and _figures(done),
                    "lines": _lines(output / "runs" / name / "metrics.jsonl"),
                }
            )
    return {
        "object": "comparison",
        "id": job.id,
        "status": job.status,
        "base": base and base["evaluation"],
        "runs": runs,
    }


def comparison_samples(job: JobRecord, folder: DataFolder) -> Shown:
    """What the base model, and the model of each run that is done, have answered to the same
    held-out prompts: `run` is None for the base model."""
    found = job.resolved["compare"]
    outcomes = folder.job(job.id).root / found["settings"]["output"] / "jobs"
    names: dict[str | None, str] = {None: "base"}
    for entry in found["entries"]:
        for seed in found["settings"]["seeds"]:
            name = run_folder(entry["folder"], seed)
            names[name] = name
    prompts: list[Shown] = []
    answers: list[Shown] = []
    for run, name in names.items():
        taken = _read(outcomes / name / SAMPLES)
        if taken is None or (prompts and taken["prompts"] != prompts):
            continue
        prompts = taken["prompts"]
        done = _read(outcomes / name / "outcome.json") or {}
        answers.append({"run": run, "step": done.get("steps", 0), "texts": taken["texts"]})
    return {"prompts": prompts, "answers": answers}


def _status(job: JobRecord, done: Shown | None, failed: Shown | None, run: Path) -> str:
    if done:
        return "succeeded"
    if failed:
        return "failed"
    if job.status in ("cancelled", "failed"):
        return job.status
    return job.status if run.is_dir() else "queued"


def _figures(done: Shown) -> Shown:
    names = ("trainable", "steps", "tokens", "seconds", "peak_memory", "learning_rate")
    return {**{name: done[name] for name in names}, "evaluation": done["evaluation"]}


def _lines(path: Path) -> list[Shown]:
    """The lines of a run's metrics, with what curves are drawn of."""
    kept = ("step", "loss", "tokens", "seconds")
    try:
        texts = path.read_text("utf-8").splitlines()
    except OSError:
        return []
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:  # being written
            continue
        if "loss" in line:
            lines.append({name: line[name] for name in kept if name in line})
    return lines


def _read(path: Path) -> Shown | None:
    try:
        found: Shown = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found
