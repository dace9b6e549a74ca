"""The metrics of a run as OpenAI's table of results, `step_metrics.csv`."""

import csv
import io
from typing import Any

from gossamer.training.outputs.metrics import Record

NAME = "step_metrics.csv"
_COLUMNS = {
    "step": "step",
    "train_loss": "loss",
    "valid_loss": "eval_loss",
    "full_valid_loss": "eval_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens": "tokens",
    "seconds": "seconds",
}
"""Columns, and the names of the figures in the metrics. An evaluation scores all held-out rows, so
both losses on them are the same one. What was not measured is left empty."""


def figures(records: list[Record]) -> bytes:
    """Write a row for each step, with its evaluation if it has one; in UTF-8."""
    rows: dict[int, dict[str, Any]] = {}
    for record in records:
        row = rows.setdefault(record["step"], {})
        # Of an evaluation only the loss: time and tokens of the row are those of the step.
        names = ("eval_loss",) if "eval_loss" in record else tuple(record)
        row.update({name: record[name] for name in names} | {"step": record["step"]})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for _, row in sorted(rows.items()):
        writer.writerow([row.get(name, "") for name in _COLUMNS.values()])
    return text.getvalue().encode()
