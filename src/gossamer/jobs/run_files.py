"""What a run folder tells of a run while it goes on: checkpoints and metrics.

Metrics are read by the number of their line, from 1. A resumed run cuts the lines after its
checkpoint and writes them again with the same figures, so a number means the same step for ever.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from gossamer.training.outputs.checkpoint import FOLDER
from gossamer.training.outputs.metrics import FILE, Record

_CHECKPOINT = re.compile(r"step-(\d+)")
_TAIL_BYTES = 64 * 2**10
_RECENT = 20
"""Steps whose median tells how long the others will take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """How far a run is; what is not known is None."""

    step: int
    train_loss: float | None
    valid_loss: float | None
    tokens_per_second: float | None
    step_seconds: float | None
    """Median time of the last steps."""


def saved_step(run: Path) -> int:
    """The step of the last checkpoint; 0: there is none."""
    try:
        names = [path.name for path in (run / FOLDER).iterdir()]
    except OSError:
        return 0
    return max((int(m[1]) for m in map(_CHECKPOINT.fullmatch, names) if m), default=0)


def read_lines(run: Path, *, after: int = 0) -> Iterator[tuple[int, Record]]:
    """Yield number and content of the metrics' whole lines after the line `after`."""
    try:
        stream = (run / FILE).open("rb")
    except OSError:
        return
    with stream:
        for number, line in enumerate(stream, start=1):
            # The last line may be in the middle of being written.
            if number > after and line.endswith(b"\n"):
                try:
                    yield number, json.loads(line)
                except ValueError:
                    continue


def read_progress(run: Path) -> RunProgress | None:
    """How far a run is, from the end of its metrics, however long they are; None: no step yet."""
    records = _tail(run)
    steps = [record for record in records if "loss" in record]
    evals = [record for record in records if "eval_loss" in record]
    if not steps and not evals:
        return None
    recent = steps[-_RECENT:]
    last = steps[-1] if steps else None
    return RunProgress(
        step=last["step"] if last else 0,
        train_loss=last["loss"] if last else None,
        valid_loss=evals[-1]["eval_loss"] if evals else None,
        tokens_per_second=last["tokens_per_second"] if last else None,
        step_seconds=median(record["seconds"] for record in recent) if recent else None,
    )


def _tail(run: Path) -> list[Record]:
    try:
        with (run / FILE).open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _TAIL_BYTES))
            lines = stream.read().splitlines(keepends=True)
    except OSError:
        return []
    if size > _TAIL_BYTES:
        lines = lines[1:]
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records
