"""`metrics.jsonl`: a line per optimizer step and per evaluation."""

import json
from collections.abc import Collection
from pathlib import Path
from statistics import median
from typing import Any

from gossamer.durable import write_whole

FILE = "metrics.jsonl"

Record = dict[str, Any]
"""A line. Of a step: step, loss, learning_rate, grad_norm, tokens, trained_tokens, seconds,
tokens_per_second; with sparse compute, work_kept. Of an evaluation: step, eval_loss, eval_tokens,
seconds. In a run of several stages all have the name of their `stage` too, and there is a line as
each stage begins: step (those before it), stage, stage_steps, learning_rate, trainable, and what
the method reports."""


class MetricsFile:
    """Appends lines; each is on its way to the disk when `write` returns."""

    def __init__(self, output: Path) -> None:
        self._path = output / FILE
        self._stream = self._path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def read_metrics(output: Path) -> list[Record]:
    """All complete lines, in order; a line cut off by a kill is left out."""
    path = output / FILE
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def truncate_metrics(output: Path, step: int, *, later_stages: Collection[str] = ()) -> None:
    """Drop all lines after `step`, and of later stages, so that a resumed run writes none twice."""
    records = [
        record
        for record in read_metrics(output)
        if record["step"] <= step and record.get("stage") not in later_stages
    ]
    write_whole(output / FILE, "".join(json.dumps(r) + "\n" for r in records))


def train_records(records: list[Record]) -> list[Record]:
    """Those of steps."""
    return [record for record in records if "loss" in record]


def stage_records(records: list[Record]) -> list[Record]:
    """Those of the beginnings of stages; none in a run of one stage."""
    return [record for record in records if "stage_steps" in record]


def eval_records(records: list[Record]) -> list[Record]:
    """Those of evaluations."""
    return [record for record in records if "eval_loss" in record]


def sparse_figures(steps: list[Record]) -> dict[str, float | None]:
    """Share of work kept, and median seconds of dense and sparse steps, from the run's metrics."""
    known = [record for record in steps if "work_kept" in record]
    dense = [record["seconds"] for record in known if record["work_kept"] == 1.0]
    sparse = [record["seconds"] for record in known if record["work_kept"] < 1.0]
    tokens = sum(record["tokens"] for record in known)
    kept = sum(record["work_kept"] * record["tokens"] for record in known)
    return {
        "work_kept": round(kept / tokens, 4) if tokens else None,
        "dense_step_seconds": round(median(dense), 4) if dense and known else None,
        "sparse_step_seconds": round(median(sparse), 4) if sparse else None,
    }
