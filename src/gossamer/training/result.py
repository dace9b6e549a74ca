"""What came out of a run."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gossamer.training.metrics import (
    Record,
    eval_records,
    sparse_figures,
    stage_records,
    train_records,
)


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
    """The same after the last step."""
    trainable: int
    total: int
    seconds: float
    """Time in training steps; loading, evaluation and saving not included."""
    tokens: int
    """Tokens trained on, padding not included."""
    tokens_per_second: float
    peak_memory: int
    """Bytes: the most the process held, on the GPU if it trained there (since the last resume)."""
    stages: list[Record] = field(default_factory=list)
    """Of a run of several stages, each stage's name, first step, steps, learning rate, trainable
    parameters and what the method reports of it; `trainable` is that of the last."""

    work_kept: float | None = None
    """With sparse compute: operations of all steps as a share of dense ones, by the model of
    FLOPs (embeddings and head not counted)."""
    dense_step_seconds: float | None = None
    """With sparse compute: median time of a step of the dense start, if there was one."""
    sparse_step_seconds: float | None = None
    """The same of the sparse steps."""

    @property
    def trainable_share(self) -> float:
        """Trainable parameters as a share of all."""
        return self.trainable / self.total

    def as_record(self) -> dict[str, Any]:
        """Plain values for `run.yaml`; the single losses are in `metrics.jsonl`."""
        values = asdict(self)
        del values["output"], values["losses"]
        return values


def summarize(
    output: Path, records: list[Record], *, trainable: int, total: int, peak_memory: int
) -> RunResult:
    """The result of a run from its metrics; there is at least one step."""
    steps, evals = train_records(records), eval_records(records)
    losses = [float(record["loss"]) for record in steps]
    tail = losses[-max(1, len(losses) // 10) :]
    before = [record["eval_loss"] for record in evals if record["step"] == 0]
    after = [record["eval_loss"] for record in evals if record["step"] == steps[-1]["step"]]
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
        stages=[_without_mappings(record) for record in stage_records(records)],
    )


def _without_mappings(record: Record) -> Record:
    return {name: value for name, value in record.items() if not isinstance(value, dict)}
