"""The lines of a run's `metrics.jsonl`, read again only when the file has changed."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.store.records import JobRecord

METRICS = "metrics.jsonl"
MAX_KEPT = 32
"""Runs of which all lines are kept."""

MAX_LISTED = 1000
"""Runs of which the last lines are kept."""

RECENT = 50
"""Steps by which the time that is left is judged."""

Line = dict[str, Any]
_Stamp = tuple[int, int, int]


class RunLines:
    """The lines of all runs of one data folder. From any thread; it reads files."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._whole = _Kept(MAX_KEPT)
        self._ends = _Kept(MAX_LISTED)

    def of(self, job_id: str) -> list[Line]:
        """All complete lines of a job, in order; none before its first step."""
        return self._through(
            self._whole, job_id, lambda texts: list(_parsed(texts)), lambda all: all
        )

    def last_of(self, job_id: str) -> list[Line]:
        """The lines by which the progress of a job is judged, in order: a list of many jobs asks
        for them again and again."""
        return self._through(self._ends, job_id, end_of, _end)

    def _through(
        self,
        kept: "_Kept",
        job_id: str,
        read: Callable[[list[str]], list[Line]],
        choose: Callable[[list[Line]], list[Line]],
    ) -> list[Line]:
        """What is kept of a run, else what `choose` takes of all its lines, if those are known, or
        `read` of its file."""
        path = self._folder.job(job_id).run / METRICS
        try:
            status = path.stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = kept.get(job_id, stamp)
            if known is not None:
                return known
            lines = self._whole.get(job_id, stamp)
            if lines is not None:
                chosen = choose(lines)
            else:
                chosen = read(path.read_text(encoding="utf-8").splitlines())
        except OSError:
            return []
        kept.put(job_id, stamp, chosen)
        return chosen


class _Kept:
    """What was read of some runs, those that were asked for last, as long as it is still true."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, tuple[_Stamp, list[Line]]] = OrderedDict()

    def get(self, job_id: str, stamp: _Stamp) -> list[Line] | None:
        with self._lock:
            known = self._runs.get(job_id)
            if known is None or known[0] != stamp:
                return None
            self._runs.move_to_end(job_id)
            return known[1]

    def put(self, job_id: str, stamp: _Stamp, lines: list[Line]) -> None:
        with self._lock:
            self._runs[job_id] = (stamp, lines)
            self._runs.move_to_end(job_id)
            while len(self._runs) > self._limit:
                self._runs.popitem(last=False)


def _end(lines: list[Line]) -> list[Line]:
    """The last evaluation and the last steps."""
    chosen = steps_of(lines)[-RECENT:] + evaluations_of(lines)[-1:]
    places = {id(line) for line in chosen}
    return [line for line in lines if id(line) in places]


def end_of(texts: list[str]) -> list[Line]:
    """What `_end` takes of all lines; only those are read, of which a run may have very many."""
    found: list[Line] = []
    steps = evaluations = 0
    for text in reversed(texts):
        if steps >= RECENT and '"eval_loss"' not in text:
            continue
        for line in _parsed([text]):
            is_step, is_evaluation = "loss" in line, "eval_loss" in line
            if (is_step and steps < RECENT) or (is_evaluation and not evaluations):
                found.append(line)
            steps, evaluations = steps + is_step, evaluations + is_evaluation
        if steps >= RECENT and evaluations:
            break
    return found[::-1]


def _parsed(texts: Iterable[str]) -> Iterable[Line]:
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:  # cut off by a kill, or being written
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            yield line


def steps_of(lines: list[Line]) -> list[Line]:
    """The lines of training steps."""
    return [line for line in lines if "loss" in line]


def evaluations_of(lines: list[Line]) -> list[Line]:
    """The lines of evaluations."""
    return [line for line in lines if "eval_loss" in line]


def progress_of(job: JobRecord, lines: list[Line]) -> dict[str, Any]:
    """How far a job is, by its lines; what was not measured is None."""
    steps, evals = steps_of(lines), evaluations_of(lines)
    last = steps[-1] if steps else {}
    done = last.get("step", 0)
    return {
        "step": done,
        "steps": job.steps,
        "seconds_left": _seconds_left(job, steps, done),
        "tokens_per_second": last.get("tokens_per_second"),
        "train_loss": last.get("loss"),
        "valid_loss": evals[-1]["eval_loss"] if evals else None,
        "reason": job.reason,
    }


def _seconds_left(job: JobRecord, steps: list[Line], done: int) -> float | None:
    recent = [line["seconds"] for line in steps[-RECENT:] if "seconds" in line]
    if job.status != "running" or job.steps is None or not recent:
        return None
    return round(max(0, job.steps - done) * median(recent), 1)


def metrics_at(lines: list[Line], step: int) -> dict[str, Any]:
    """What was measured at a step, by OpenAI's names."""
    found: dict[str, Any] = {"step": step}
    for line in lines:
        if line["step"] == step and "loss" in line:
            found["train_loss"] = line["loss"]
        elif line["step"] == step and "eval_loss" in line:
            found["valid_loss"] = found["full_valid_loss"] = line["eval_loss"]
    return found
