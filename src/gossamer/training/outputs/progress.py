"""Shows the progress of a run: a live bar on a terminal, plain lines elsewhere."""

import sys
from collections import deque
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gossamer.training.outputs.listener import Listener, RunFacts
from gossamer.training.outputs.metrics import Record, RunResult
from gossamer.training.outputs.model_card import result_rows


def make_progress(*, log_every: int) -> Listener:
    """Make the progress display that suits standard output."""
    return LiveProgress() if sys.stdout.isatty() else PlainProgress(log_every)


class PlainProgress(Listener):
    """Prints a line every `log_every` steps."""

    def __init__(self, log_every: int) -> None:
        self._log_every = log_every
        self._steps = 0
        self._recent: deque[Record] = deque(maxlen=20)

    def note(self, text: str) -> None:
        self._line(text)

    def started(self, facts: RunFacts) -> None:
        self._steps = facts.plan.steps
        for line in start_lines(facts):
            self._line(line)

    def step(self, record: Record) -> None:
        self._recent.append(record)
        step = record["step"]
        if step == 1 or step % self._log_every == 0 or step == self._steps:
            self._line(f"step {step}/{self._steps}  {self._figures()}")

    def evaluated(self, record: Record) -> None:
        self._line(
            f"step {record['step']}/{self._steps}  evaluation loss {record['eval_loss']:.4f}"
        )

    def _figures(self) -> str:
        last = self._recent[-1]
        seconds = sum(record["seconds"] for record in self._recent)
        rate = sum(record["tokens"] for record in self._recent) / seconds
        left = (self._steps - last["step"]) * seconds / len(self._recent)
        return f"loss {last['loss']:.4f}  {rate:,.0f} tokens/s  {duration(left)} left"

    def _line(self, text: str) -> None:
        print(text, flush=True)


class LiveProgress(Listener):
    """Redraws one line, and prints above it what is worth keeping."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            transient=True,
        )
        self._recent: deque[Record] = deque(maxlen=20)

    def note(self, text: str) -> None:
        self._print(text)

    def started(self, facts: RunFacts) -> None:
        for line in start_lines(facts):
            self._print(line)
        self._task = self._progress.add_task(
            "", total=facts.plan.steps, completed=facts.resumed_from, figures=""
        )
        self._progress.start()

    def step(self, record: Record) -> None:
        self._recent.append(record)
        seconds = sum(entry["seconds"] for entry in self._recent)
        rate = sum(entry["tokens"] for entry in self._recent) / seconds
        figures = f"loss {record['loss']:.4f}  {rate:,.0f} tokens/s "
        self._progress.update(self._task, completed=record["step"], figures=figures)

    def evaluated(self, record: Record) -> None:
        self._print(f"step {record['step']}: evaluation loss {record['eval_loss']:.4f}")

    def saved(self, folder: Path) -> None:
        self._print(f"saved {folder}")

    def closed(self) -> None:
        self._progress.stop()

    def _print(self, text: str) -> None:
        # Text of users and files: no markup, no colours guessed.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def start_lines(facts: RunFacts) -> list[str]:
    """Say what is worth knowing before the first step."""
    plan = facts.plan
    share = facts.trainable / facts.total
    lines = [
        f"{facts.method} on {facts.model}: {facts.trainable:,} of {facts.total:,} parameters learn "
        f"({share:.2%}), {facts.dtype} on {facts.device}",
        *facts.data_lines,
        f"{plan.steps} steps of {plan.rows_per_step} rows ({plan.epochs:.2g} passes over "
        f"{plan.num_rows} rows), learning rate {rate_text(facts)}, "
        f"{facts.eval_rows or 'no'} rows held out",
    ]
    if facts.resumed_from:
        lines.append(f"going on after step {facts.resumed_from}")
    return lines


def rate_text(facts: RunFacts) -> str:
    """The learning rate, and where it comes from unless the user gave it."""
    source = f" ({facts.learning_rate_source})" if facts.learning_rate_source else ""
    return f"{facts.learning_rate:g}{source}"


def print_result(result: RunResult, console: Console | None = None) -> None:
    """Print the table at the end of a run."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in result_rows(result):
        table.add_row(name, value)
    console = console or Console()
    console.print(table, highlight=False)
    console.print(f"in {result.output}", markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Format seconds as "42 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
