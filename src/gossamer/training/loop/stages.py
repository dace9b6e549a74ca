"""Trains the stages of a run, a trainer each: from the prepared model to the trained one.

A stage ends with a checkpoint and the next one goes on from it, in a run that nothing disturbs as
in one that is resumed; so the two are the same.
"""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from gossamer.errors import CheckpointError
from gossamer.methods.common.ranks import is_first
from gossamer.training.density.meter import density_meter
from gossamer.training.loop.build import build_trainer
from gossamer.training.loop.callback import RunCallback, RunInterrupted, StopRequest, stop_on_signal
from gossamer.training.loop.device import count_parameters
from gossamer.training.loop.held_out import held_out_loss
from gossamer.training.loop.own_forward import give_back_forward, own_forward
from gossamer.training.loop.sampler import PromptSampler
from gossamer.training.loop.sparse_compute import sparse_callback
from gossamer.training.loop.trainer_hooks import as_before_autocast
from gossamer.training.outputs.checkpoint import as_checkpoint_error, read_stage, step_of
from gossamer.training.outputs.listener import Listener, RunFacts
from gossamer.training.outputs.metrics import MetricsFile
from gossamer.training.outputs.trackers import tracker_callbacks
from gossamer.training.plan import StagePlan
from gossamer.training.prepare import Prepared
from gossamer.training.settings import RunSettings


def train_stages(
    prepared: Prepared, model: Any, checkpoint: Path | None, listener: Listener
) -> Any:
    """Train all stages and return the last one's model; `model` is the first one's, as prepared.

    Goes on from `checkpoint` if there is one. Raises `RunInterrupted` after a signal.
    """
    index, start = 0, 0
    if checkpoint is not None:
        index, start = read_stage(checkpoint), step_of(checkpoint)
        with as_checkpoint_error(checkpoint):
            model = prepared.method.resume_stage(model, index, checkpoint, prepared.context)
    listener.started(_facts(prepared, model, start=start))
    metrics = MetricsFile(Path(prepared.settings.output), silent=not is_first())
    try:
        with stop_on_signal() as stop:
            for stage in prepared.stages[index:]:
                if stage.index > index:
                    model = enter(prepared, model, stage)
                if start < stage.end:
                    if start <= stage.start:
                        _announce(prepared, model, stage, metrics, listener)
                    model, checkpoint = _train_stage(
                        prepared, model, stage, checkpoint, metrics, listener, stop
                    )
    finally:
        metrics.close()
    return model


def enter(prepared: Prepared, model: Any, stage: StagePlan) -> Any:
    """Make the model of `stage` from the one before; by chance only as the seed says."""
    set_seed(prepared.context.seed)
    return prepared.method.enter_stage(model, stage.index, prepared.context)


def check_stages(before: RunSettings, prepared: Prepared) -> None:
    """Raise `CheckpointError` unless a run of more steps than `before` goes on as that began: with
    the same stages but for the last, and a method that looks at no total."""
    context = prepared.context
    if before.max_steps is None or before.max_steps == prepared.plan.steps:
        return
    if prepared.method.depends_on_total():
        raise CheckpointError(
            f"cannot resume with max_steps={prepared.plan.steps} instead of {before.max_steps}: "
            f"what method '{prepared.method.name}' does in a step depends on the number of steps; "
            "start a new run in another --output"
        )
    shorter = prepared.method.stages(replace(context, total_steps=before.max_steps))
    if [(s.name, s.steps) for s in shorter[:-1]] != [
        (s.name, s.steps) for s in prepared.stages[:-1]
    ]:
        raise CheckpointError(
            f"cannot resume with max_steps={prepared.plan.steps} instead of {before.max_steps}: "
            f"the stages of method '{prepared.method.name}' depend on the number of steps"
        )


def _train_stage(
    prepared: Prepared,
    model: Any,
    stage: StagePlan,
    checkpoint: Path | None,
    metrics: MetricsFile,
    listener: Listener,
    stop: StopRequest,
) -> tuple[Any, Path]:
    """Train one stage: the trained model, and the checkpoint after the last step."""
    settings = prepared.settings
    held_out = held_out_loss(prepared, stage)
    if held_out is not None and held_out.over and checkpoint is not None:
        return model, checkpoint
    forward = own_forward(model)
    sparse = sparse_callback(prepared.sparse, prepared.context, listener)
    with density_meter(settings, model) as density:
        trainer = build_trainer(
            model,
            prepared.tokenizer,
            prepared.data,
            settings=settings,
            method=prepared.method,
            context=prepared.context,
            plan=prepared.plan,
            stage=stage,
            callbacks=[] if sparse is None else [sparse],
            density=density,
        )
        callback = RunCallback(
            trainer,
            settings,
            metrics,
            listener,
            stop,
            prepared.stages,
            sparse=sparse,
            held_out=held_out,
            sampler=_sampler(prepared, listener, forward),
        )
        trainer.add_callback(callback)
        # After the run's own, which adds to what they report.
        start = stage.start if checkpoint is None else step_of(checkpoint)
        for tracker in tracker_callbacks(settings, start=start):
            trainer.add_callback(tracker)
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    if callback.interrupted:
        raise RunInterrupted(Path(settings.output), trainer.last_checkpoint)
    model = as_before_autocast(trainer.accelerator.unwrap_model(trainer.model))
    give_back_forward(model, forward)
    last = trainer.last_checkpoint
    # Trainer and callbacks refer to each other; the optimizer's state is to go now.
    del trainer, callback, sparse
    gc.collect()
    return model, last


def _sampler(prepared: Prepared, listener: Listener, forward: Any) -> PromptSampler | None:
    settings = prepared.settings
    if not settings.samples:
        return None
    return PromptSampler(
        prepared.data.eval,
        prepared.tokenizer,
        Path(settings.output),
        listener,
        count=settings.samples,
        forward=forward,
    )


def _announce(
    prepared: Prepared, model: Any, stage: StagePlan, metrics: MetricsFile, listener: Listener
) -> None:
    """Note the beginning of a stage, in a run of several."""
    if len(prepared.stages) == 1:
        return
    trainable, _ = count_parameters(model)
    metrics.write(
        {
            "step": stage.start,
            "stage": stage.name,
            "stage_steps": stage.steps,
            "learning_rate": stage.learning_rate,
            "trainable": trainable,
            **prepared.method.stage_report(stage.index),
        }
    )
    listener.note(
        f"stage {stage.index + 1} of {len(prepared.stages)}: {stage.name}, steps {stage.start + 1} "
        f"to {stage.end}, learning rate {stage.learning_rate:g}, {trainable:,} parameters learn"
    )


def _facts(prepared: Prepared, model: Any, *, start: int) -> RunFacts:
    lines = prepared.data.report.lines()
    if prepared.data.eval_report is not None:
        lines += prepared.data.eval_report.lines()
    trainable, total = count_parameters(model)
    return RunFacts(
        method=prepared.method.name,
        model=prepared.settings.model,
        plan=prepared.plan,
        data_lines=lines,
        trainable=trainable,
        total=total,
        dtype=prepared.settings.dtype,
        device=prepared.context.device,
        learning_rate=prepared.settings.learning_rate or 0.0,
        learning_rate_source=prepared.recorded.get("learning_rate_source"),
        eval_rows=len(prepared.data.eval),
        resumed_from=start,
    )
