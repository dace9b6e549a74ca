"""The events of a job: what happened to it, from the database, and its metrics, from its run.

Both are merged by time. A place among them is two numbers, the last row and the last line that were
seen, so that nothing is missed or met twice whichever of the two came late.
"""

import re
from collections import deque
from dataclasses import dataclass
from typing import Any

from gossamer.jobs.store.records import JobEventRecord, JobRecord
from gossamer.studio.view.lines import Line

_CURSOR = re.compile(r"(\d{1,12})\.(\d{1,12})")

Shown = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the events of a job."""

    seq: int = 0
    """The number of the last row that was seen."""
    lines: int = 0
    """The number of lines that were seen."""

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        """Read what `str` has written; None for anything else."""
        match = _CURSOR.fullmatch(text)
        return cls(int(match[1]), int(match[2])) if match else None

    def __str__(self) -> str:
        return f"{self.seq}.{self.lines}"


@dataclass(frozen=True, slots=True)
class PlacedEvent:
    """An event, and the place just after it."""

    shown: Shown
    cursor: Cursor
    time: float


def merged(
    job: JobRecord, rows: list[JobEventRecord], lines: list[Line], since: Cursor
) -> list[PlacedEvent]:
    """All events after `since`, the oldest first. `rows` and `lines` are those of the job."""
    waiting = deque(row for row in rows if row.seq > since.seq)
    measured = deque(enumerate(lines[since.lines :], start=since.lines + 1))
    times = _times(job, rows, lines)
    events = []
    cursor = since
    while waiting or measured:
        if not measured or (waiting and waiting[0].created <= times[measured[0][0] - 1]):
            row = waiting.popleft()
            cursor = Cursor(row.seq, cursor.lines)
            events.append(PlacedEvent(_row_event(job, row), cursor, row.created))
        else:
            number, line = measured.popleft()
            cursor = Cursor(cursor.seq, number)
            time = times[number - 1]
            if (shown := _line_event(job, line, time)) is not None:
                events.append(PlacedEvent(shown, cursor, time))
    return events


def _times(job: JobRecord, rows: list[JobEventRecord], lines: list[Line]) -> list[float]:
    """When each line was written; of a line that does not say so, from those around it."""
    started = [row.created for row in rows if (row.data or {}).get("attempt") is not None]
    last = started[0] if started else job.started or job.created
    times = []
    for line in lines:
        said = line.get("time")
        last = (
            max(last, float(said))
            if isinstance(said, int | float)
            else last + line.get("seconds", 0.0)
        )
        times.append(last)
    return times


def _row_event(job: JobRecord, row: JobEventRecord) -> Shown:
    return {
        "id": f"ftevent-{_tail(job)}-{row.seq}",
        "object": "fine_tuning.job.event",
        "created_at": int(row.created),
        "level": row.level,
        "message": row.message,
        "type": "message",
        "data": row.data or {},
    }


def _line_event(job: JobRecord, line: Line, time: float) -> Shown | None:
    step, place = line["step"], f"Step {line['step']}/{job.steps or '?'}"
    if "loss" in line:
        kind, message = "step", f"{place}: training loss={line['loss']:.2f}"
        data = {"train_loss": line["loss"], "total_steps": job.steps, **line}
    elif "eval_loss" in line:
        kind, message = "eval", f"{place}: validation loss={line['eval_loss']:.2f}"
        loss = line["eval_loss"]
        data = {"valid_loss": loss, "full_valid_loss": loss, "total_steps": job.steps, **line}
    else:
        return None
    stage = f"-{line['stage']}" if "stage" in line else ""
    return {
        "id": f"ftevent-{_tail(job)}-{kind}-{step}{stage}",
        "object": "fine_tuning.job.event",
        "created_at": int(time),
        "level": "info",
        "message": message,
        "type": "metrics",
        "data": data,
    }


def _tail(job: JobRecord) -> str:
    return job.id.removeprefix("ftjob-")
