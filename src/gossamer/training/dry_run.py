"""Reports what a run would do, without doing it."""

from dataclasses import dataclass
from pathlib import Path

from gossamer.training.memory_estimate import Estimate, estimate_stages
from gossamer.training.outputs.run_folder import check_free
from gossamer.training.plan import RunPlan, StagePlan
from gossamer.training.prepare import Prepared, prepare
from gossamer.training.quiet import quiet_libraries
from gossamer.training.settings import RunSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The course of a run that was not carried out."""

    settings: RunSettings
    learning_rate_source: str | None
    """Where the learning rate comes from; None: the settings give it."""
    plan: RunPlan
    data_lines: list[str]
    train_tokens: int
    """Tokens of the training rows, each counted once."""
    eval_rows: int
    stages: tuple[StagePlan, ...]
    memory: list[Estimate]
    """The estimated memory of each stage."""
    preview: str
    """The first row as the model sees it, what is learnt of it marked."""

    def lines(self) -> list[str]:
        """Return the report as lines."""
        plan, last = self.plan, self.memory[-1]
        memory = max(self.memory, key=lambda estimate: estimate.total)
        share = last.trainable / last.total_parameters
        return [
            *self.data_lines,
            f"rows: {plan.num_rows:,} to train on, {self.eval_rows:,} held out",
            f"tokens: {self.train_tokens:,} per pass",
            f"steps: {plan.steps:,} of {plan.rows_per_step} rows, {plan.epochs:.2g} passes, "
            f"{plan.warmup_steps} of warm-up",
            f"learning rate: {self.settings.learning_rate:g}{self._rate_source()}, "
            f"{self.settings.scheduler}",
            *self._stage_lines(),
            f"trainable parameters: {last.trainable:,} of {last.total_parameters:,} ({share:.2%})",
            f"memory, estimated: {_size(memory.total)} on {self.settings.device} in "
            f"{self.settings.dtype} (weights {_size(memory.weights)}, gradients "
            f"{_size(memory.gradients)}, optimizer {_size(memory.optimizer)}, activations "
            f"{_size(memory.activations)}, process {_size(memory.process)})",
            self.preview,
            "dry run: nothing was written",
        ]

    def _rate_source(self) -> str:
        return f" ({self.learning_rate_source})" if self.learning_rate_source else ""

    def _stage_lines(self) -> list[str]:
        if len(self.stages) == 1:
            return []
        return [
            f"stage {stage.name}: steps {stage.start + 1} to {stage.end}, {stage.warmup_steps} of "
            f"warm-up, learning rate {stage.learning_rate:g}, {memory.trainable:,} parameters"
            for stage, memory in zip(self.stages, self.memory, strict=True)
        ]


def dry_run(settings: RunSettings) -> DryRun:
    """Check `settings`, data and base model as a run would; nothing is trained or written.

    Raises what `tune` would raise before its first step.
    """
    output = Path(settings.output)
    check_free(output, overwrite=True)
    with quiet_libraries():
        prepared = prepare(settings)
        # Of rows that are not in memory, the first tell for all.
        looked_at = prepared.data.train[:1000] if settings.lazy_data else prepared.data.train
        sides = [side for row in looked_at for side in row.sides]
        memory = estimate_stages(
            prepared.method,
            prepared.context,
            batch_size=settings.batch_size * len(prepared.data.train[0].sides),
            longest_row=max(len(side.input_ids) for side in sides),
            most_trained=max(side.trained_tokens for side in sides),
            sharing=settings.processes if settings.shard_base else 1,
        )
    return DryRun(
        settings=prepared.settings,
        learning_rate_source=prepared.recorded.get("learning_rate_source"),
        plan=prepared.plan,
        stages=prepared.stages,
        data_lines=_data_lines(prepared),
        train_tokens=round(
            sum(len(side.input_ids) for side in sides) / len(looked_at) * len(prepared.data.train)
        ),
        eval_rows=len(prepared.data.eval),
        memory=memory,
        preview=prepared.data.preview(prepared.tokenizer),
    )


def _data_lines(prepared: Prepared) -> list[str]:
    reports = [prepared.data.report, prepared.data.eval_report]
    return [line for report in reports if report is not None for line in report.lines()]


def _size(count: int) -> str:
    if count < 2**30 / 10:
        return f"{count / 2**20:.1f} MiB"
    return f"{count / 2**30:.2f} GiB"
