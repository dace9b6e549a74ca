"""What a comparison says, as events and metrics of its job.

The metrics of the job are the steps of all runs, one run after the other, as if they were one: so
what shows a job's progress needs to know nothing of comparisons. The runs' own files are the truth:
when a run begins, or goes on from its checkpoint, the file is written again from theirs.
"""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gossamer.files import write_whole
from gossamer.jobs.run_files import SAVED
from gossamer.jobs.worker.task import JobTask
from gossamer.training.comparison.entries import Entry
from gossamer.training.comparison.folder import Layout
from gossamer.training.comparison.progress import ComparisonProgress
from gossamer.training.comparison.settings import CompareSettings
from gossamer.training.outputs.metrics import FILE, read_metrics, train_records

_NUMBER = re.compile(r"\[\d+/\d+\] ")


class ComparisonNews(ComparisonProgress):
    """Tells the job of what a comparison does; it shows nothing.

    Raises `JobLostError` in the comparison when the job is another attempt's.
    """

    def __init__(self, task: JobTask, settings: CompareSettings) -> None:
        super().__init__(show=False)
        self._listener = task.listener()
        layout = Layout(Path(settings.output))
        self._runs = {
            _title(entry, seed, settings): layout.run(entry, seed)
            for seed in settings.seeds
            for entry in settings.entries()
        }
        self._is_even = settings.limits().minutes is None
        task.job.run.mkdir(exist_ok=True)
        self._path = task.job.run / FILE
        self._saved = task.job.run / SAVED
        self._run = ""
        self._is_announced = False
        self._before = 0
        """Steps of the runs before this one."""

    def note(self, text: str) -> None:
        """Pass on a line."""
        self._listener.note(text)

    def jobs(self, count: int, *, scoring: float) -> None:
        """Nothing: the job's own steps tell how much is left."""

    def begin(self, title: str) -> None:
        """Remember which run begins."""
        self._run = _NUMBER.sub("", title)

    def end(self, text: str, seconds: float | None = None) -> None:
        """Tell how a run, or what comes before the runs, has ended."""
        if self._run in self._runs and text.startswith("failed"):
            self._listener.note(f"warning: {self._run}: {text}")
        else:
            self._listener.note(f"{self._run}: {text}")

    def hear(self, event: dict[str, Any]) -> None:
        """Note what the process of a run reports."""
        kind = event["event"]
        if kind == "note":
            self._listener.note(f"{self._run}: {event['text']}")
        elif kind == "started" and "trainable" in event:
            self._begin_run(event["steps"], event["at"])
        elif kind == "step":
            self._add(event)
        elif kind == "saved":
            self._save(self._before + event["step"])

    def closed(self) -> None:
        """Nothing: nothing is shown."""

    def complete(self) -> None:
        """Write the metrics of all runs as they are in the end."""
        self._rewrite(list(self._runs), None)

    def _begin_run(self, steps: int, at: int) -> None:
        titles = list(self._runs)
        self._rewrite(titles[: titles.index(self._run) + 1], at)
        if not self._is_announced:
            self._is_announced = True
            total = steps * len(titles) if self._is_even else self._before + steps
            self._listener.announce(total, self._before + at)

    def _rewrite(self, titles: list[str], at: int | None) -> None:
        """Write the steps of some runs, the last one's until its step `at` (None: all)."""
        lines: list[dict[str, Any]] = []
        for title in titles:
            self._before = lines[-1]["step"] if lines else 0
            for record in train_records(read_metrics(self._runs[title])):
                if title != titles[-1] or at is None or record["step"] <= at:
                    lines.append({**record, **self._place(record)} | {"run": title})
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in lines))

    def _place(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"step": self._before + record["step"], "run_step": record["step"]}

    def _add(self, event: dict[str, Any]) -> None:
        kept = {name: event[name] for name in ("loss", "seconds")}
        line = {**kept, **self._place(event), "run": self._run, "time": time.time()}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def _save(self, step: int) -> None:
        write_whole(self._saved, f"{step}\n")
        self._listener.checkpoint(step)


def _title(entry: Entry, seed: int, settings: CompareSettings) -> str:
    """How a comparison calls a run when it begins, without its number."""
    return entry.label + (f", seed {seed}" if len(settings.seeds) > 1 else "")
