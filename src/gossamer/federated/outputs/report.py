"""Tables of federated runs, from their metrics: losses, bytes, and how exact each round was."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from gossamer.errors import UsageError
from gossamer.training.outputs.metrics import eval_records, read_metrics, train_records

COLUMNS = (
    *("run", "round", "stage", "clients", "loss", "held-out loss", "up (B)", "down (B)"),
    *("sent so far (MB)", "distance to the mean"),
)


def run_records(folders: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Read the metrics of federated runs, by their folders' names; raises `UsageError`."""
    found = {}
    for folder in folders:
        records = read_metrics(folder)
        if not any("up" in record for record in records):
            raise UsageError(
                f"{folder} holds no round of a federated run; give the --output of "
                "`gossamer federate simulate`"
            )
        found[str(folder)] = records
    return found


def report_rows(
    runs: Mapping[str, Sequence[dict[str, Any]]], *, every_round: bool
) -> Iterator[tuple[str, ...]]:
    """Yield the cells of the last round of each run, or of all rounds."""
    for name, records in runs.items():
        rounds = train_records(list(records))
        losses = {record["step"]: record["eval_loss"] for record in eval_records(list(records))}
        totals = list(accumulate(record["up"] + record["down"] for record in rounds))
        rows = list(zip(rounds, totals, strict=True))
        for record, total in rows if every_round else rows[-1:]:
            loss, distance = losses.get(record["step"]), record.get("distance")
            failed = len(record.get("failed", ()))
            yield (
                name,
                str(record["step"]),
                record["stage"],
                f"{len(record['clients'])}" + (f" ({failed} failed)" if failed else ""),
                f"{record['loss']:.4f}",
                "" if loss is None else f"{loss:.4f}",
                f"{record['up']:,}",
                f"{record['down']:,}",
                f"{total / 1e6:.3f}",
                "" if distance is None else f"{distance:.1e}",
            )
