"""`metrics.jsonl`, a line per step and per evaluation, and the result that sums it up."""

import json
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from gossamer.files import write_whole

FILE = "metrics.jsonl"

Record = dict[str, Any]
"""A line of `metrics.jsonl`.

Of a step: step, loss, learning_rate, grad_norm, tokens, trained_tokens, seconds,
tokens_per_second; with sparse compute, work_kept and choosing_work; with density_loss, density and
density_term. Of an evaluation: step, eval_loss, eval_tokens, seconds; with density_loss,
eval_density. Of pairs both also have accuracy and margin, or eval_accuracy and eval_margin. In a
run of several stages all have the name of their `stage` too, and there is a line as each stage
begins: step (those before it), stage, stage_steps, learning_rate, trainable, and what the method
reports. Each has the `time` at which it was written, in seconds since 1970.
"""


class MetricsFile:
    """Appends lines; each is on its way to the disk when `write` returns."""

    def __init__(self, output: Path, *, silent: bool = False) -> None:
        """`silent`: another process writes the same lines, and this one none."""
        self._stream = None if silent else (output / FILE).open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        if self._stream is not None:
            self._stream.write(json.dumps({**record, "time": round(time.time(), 3)}) + "\n")
            self._stream.flush()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def read_metrics(output: Path) -> list[Record]:
    """Read all complete lines, in order; a line cut off by a kill is left out."""
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


def truncate_metrics(
    output: Path,
    step: int,
    *,
    later_stages: Collection[str] = (),
    not_evaluated: int | None = None,
) -> None:
    """Drop all lines after `step`, and of later stages, so that a resumed run writes none twice;
    and evaluations after the step `not_evaluated`."""
    records = [
        record
        for record in read_metrics(output)
        if record["step"] <= step
        and record.get("stage") not in later_stages
        and not ("eval_loss" in record and record["step"] == not_evaluated)
    ]
    write_whole(output / FILE, "".join(json.dumps(r) + "\n" for r in records))


def train_records(records: list[Record]) -> list[Record]:
    """The records of steps."""
    return [record for record in records if "loss" in record]


def stage_records(records: list[Record]) -> list[Record]:
    """The records of the beginnings of stages; none in a run of one stage."""
    return [record for record in records if "stage_steps" in record]


def eval_records(records: list[Record]) -> list[Record]:
    """The records of evaluations."""
    return [record for record in records if "eval_loss" in record]


def sparse_figures(steps: list[Record]) -> dict[str, float | None]:
    """The share of work kept, and median seconds of dense and sparse steps, from the metrics."""
    known = [record for record in steps if "work_kept" in record]
    dense = [record["seconds"] for record in known if record["work_kept"] == 1.0]
    sparse = [record["seconds"] for record in known if record["work_kept"] < 1.0]
    tokens = sum(record["tokens"] for record in known)
    kept = sum(record["work_kept"] * record["tokens"] for record in known)
    choosing = sum(record.get("choosing_work", 0.0) * record["tokens"] for record in known)
    return {
        "work_kept": round(kept / tokens, 4) if tokens else None,
        "choosing_work": round(choosing / tokens, 5) if tokens else None,
        "dense_step_seconds": round(median(dense), 4) if dense and known else None,
        "sparse_step_seconds": round(median(sparse), 4) if sparse else None,
    }


def density_figures(steps: list[Record], evals: list[Record], last: int) -> dict[str, float | None]:
    """The density of activations at the end of training, and on held-out rows at the start and
    after the step `last`, from the metrics."""
    tail = [record["density"] for record in _tail(steps) if "density" in record]
    known = [
        (record["step"], record["eval_density"]) for record in evals if "eval_density" in record
    ]
    before = [share for step, share in known if step == 0]
    after = [share for step, share in known if step == last]
    return {
        "density": round(sum(tail) / len(tail), 6) if tail else None,
        "eval_density_before": before[-1] if before else None,
        "eval_density": after[-1] if after else None,
    }


def _tail(steps: list[Record]) -> list[Record]:
    """The last tenth of the steps."""
    return steps[-max(1, len(steps) // 10) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A finished run, interruptions included in all figures."""

    output: Path
    """The adapter (or, by `full`, the model) and everything about it."""
    steps: int
    losses: list[float]
    """Training loss of each step: mean over its trained tokens."""
    train_loss: float
    """Mean loss of the last tenth of the steps."""
    eval_loss_before: float | None
    """Loss on the held-out rows before the first step; None: not evaluated."""
    eval_loss: float | None
    """Loss on the held-out rows after the last step; with load_best_at_end, after `best_step`."""
    trainable: int
    total: int
    seconds: float
    """Time in training steps; loading, evaluation and saving not included."""
    tokens: int
    """Tokens trained on, padding not included."""
    tokens_per_second: float
    peak_memory: int
    """The most bytes the process held, on the GPU if it trained there (since the last resume)."""
    stages: list[Record] = field(default_factory=list)
    """Stages of a run that has several: each one's name, first step, steps, learning rate,
    trainable parameters and what the method reports of it; `trainable` is that of the last."""

    best_step: int | None = None
    """With load_best_at_end: the step whose weights are the result."""
    work_kept: float | None = None
    """With sparse compute: operations of all steps as a share of dense ones, by the model of
    FLOPs (embeddings and head not counted)."""
    choosing_work: float | None = None
    """With sparse compute: the part of `work_kept` that the choice of channels took."""
    dense_step_seconds: float | None = None
    """With sparse compute: median time of a step of the dense start, if there was one."""
    sparse_step_seconds: float | None = None
    """With sparse compute: median time of a sparse step."""
    eval_accuracy: float | None = None
    """With pairs: the share of the held-out ones of which the model has come to prefer the chosen
    answer, measured where `eval_loss` was."""
    eval_margin: float | None = None
    """With pairs: by how much, beta times the mean difference of the answers' gains."""
    density: float | None = None
    """With density_loss: the share of MLP activations that were dense in the last tenth of the
    steps, mean of the layers."""
    eval_density_before: float | None = None
    """With density_loss: the same on the held-out rows before the first step."""
    eval_density: float | None = None
    """With density_loss: the same where `eval_loss` was measured."""

    @property
    def trainable_share(self) -> float:
        """Trainable parameters as a share of all."""
        return self.trainable / self.total

    def as_record(self) -> dict[str, Any]:
        """Return plain values for `run.yaml`; the single losses are in `metrics.jsonl`."""
        values = asdict(self)
        del values["output"], values["losses"]
        return values


def summarize(
    output: Path,
    records: list[Record],
    *,
    trainable: int,
    total: int,
    peak_memory: int,
    best_step: int | None = None,
) -> RunResult:
    """Compute the result of a run from its metrics; there is at least one step."""
    steps, evals = train_records(records), eval_records(records)
    losses = [float(record["loss"]) for record in steps]
    tail = [float(record["loss"]) for record in _tail(steps)]
    before = [record["eval_loss"] for record in evals if record["step"] == 0]
    last = steps[-1]["step"] if best_step is None else best_step
    after = [record["eval_loss"] for record in evals if record["step"] == last]
    seconds = sum(record["seconds"] for record in steps)
    tokens = sum(record["tokens"] for record in steps)
    return RunResult(
        output=output,
        steps=len(steps),
        losses=losses,
        train_loss=sum(tail) / len(tail),
        eval_loss_before=before[-1] if before else None,
        eval_loss=after[-1] if after else None,
        trainable=trainable,
        total=total,
        seconds=round(seconds, 2),
        tokens=tokens,
        tokens_per_second=round(tokens / seconds, 1),
        peak_memory=peak_memory,
        **sparse_figures(steps),
        best_step=best_step,
        **density_figures(steps, evals, last),
        **{name: _at(evals, last, name) for name in ("eval_accuracy", "eval_margin")},
        stages=[_without_mappings(record) for record in stage_records(records)],
    )


def _at(evals: list[Record], step: int, name: str) -> float | None:
    """A figure of the last evaluation after `step`, if it has one."""
    found = [record[name] for record in evals if record["step"] == step and name in record]
    return found[-1] if found else None


def _without_mappings(record: Record) -> Record:
    return {name: value for name, value in record.items() if not isinstance(value, dict)}
