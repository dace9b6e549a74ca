"""Carries out a training run from settings to run folder; `tune` is the Python call."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gossamer.errors import (
    DataError,
    GossamerError,
    StorageError,
    TrainingError,
)
from gossamer.files import disk_trouble
from gossamer.methods.common.ranks import is_first, meet
from gossamer.training.arguments import check_resumable, check_start, collect
from gossamer.training.density.check import density_facts
from gossamer.training.loop.build import build_model
from gossamer.training.loop.device import count_parameters, peak_memory
from gossamer.training.loop.held_out import best_step, is_due, model_of_step
from gossamer.training.loop.sparse_compute import check_same_plan
from gossamer.training.loop.stages import check_stages, train_stages
from gossamer.training.objectives.reference import with_reference
from gossamer.training.outputs.checkpoint import latest_checkpoint, read_stage, step_of
from gossamer.training.outputs.listener import Listener, warn
from gossamer.training.outputs.loss_curve import draw_loss_curve
from gossamer.training.outputs.metrics import (
    RunResult,
    read_metrics,
    summarize,
    train_records,
    truncate_metrics,
)
from gossamer.training.outputs.model_card import write_model_card
from gossamer.training.outputs.progress import make_progress
from gossamer.training.outputs.run_folder import (
    LOSS_CURVE,
    MODEL_CARD,
    check_free,
    clear_run,
    make_run_folder,
    publish,
)
from gossamer.training.outputs.run_record import (
    FILE,
    changed_data,
    check_continues,
    read_config,
    write_run_record,
)
from gossamer.training.outputs.samples import truncate_samples
from gossamer.training.packing.check import prove_packing
from gossamer.training.prepare import Prepared, prepare
from gossamer.training.processes.launch import launched_rank, with_launched_processes
from gossamer.training.processes.team import team
from gossamer.training.quiet import quiet_libraries
from gossamer.training.settings import RunSettings


def tune(
    model: str | Path | None = None,
    data: str | Path | None = None,
    output: str | Path | None = None,
    *,
    method: str | None = None,
    config: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
    **settings: Any,
) -> RunResult:
    """Fine-tune `model` with `method` on `data`; the result is in the folder `output`.

    The same as the command: `tune("smollm2-135m", "chats.jsonl", "out", method="lora", rank=8)`.
    `settings` are those of the run, of its data and of its method, by name. `config` is a file as
    `run.yaml`, whose values the arguments override. With `resume`, all that is not given is taken
    from the run in `output`. `listener` hears of every step; the default shows progress on the
    screen, `Listener()` shows nothing.

    Raises a `GossamerError` with one clear line, and `RunInterrupted` (a `KeyboardInterrupt`) when
    stopped by Ctrl-C or SIGTERM, after having saved a checkpoint.
    """
    options = {"model": model, "data": data, "output": output, "method": method}
    run_settings, recorded = collect(config, options, settings, resume=resume)
    listener = listener or make_progress(log_every=run_settings.log_every)
    try:
        return run(
            run_settings,
            resume=resume,
            overwrite=overwrite,
            listener=listener,
            repeats=recorded,
        )
    finally:
        listener.closed()


def run(
    settings: RunSettings,
    *,
    resume: bool,
    overwrite: bool,
    listener: Listener,
    repeats: Mapping[str, Any] | None = None,
) -> RunResult:
    """Carry out the run of `settings`; see `tune`.

    `repeats`: facts of the run that is being repeated.
    """
    settings = with_launched_processes(settings)
    output = Path(settings.output)
    if launched_rank() > 0:
        # The first process makes the folder, and talks.
        listener = Listener()
    elif resume:
        check_resumable(output)
    else:
        check_start(settings)
        check_free(output, overwrite=overwrite)
    with quiet_libraries():
        prepared = prepare(settings)
        for name in changed_data(repeats or {}, prepared.recorded):
            warn(listener, f"data file '{name}' is not the one that the config's run learnt from")
        try:
            with team(prepared.settings, resume=resume):
                return _carry_out(prepared, resume=resume, listener=listener)
        except GossamerError:
            raise
        except Exception as error:
            told = _in_one_line(error, prepared)
            if told is None:
                raise
            raise told from error


def _carry_out(prepared: Prepared, *, resume: bool, listener: Listener) -> RunResult:
    """Carry out the run; all that can be refused comes before the folder is touched."""
    output = Path(prepared.settings.output)
    checkpoint, former_end = None, None
    if resume:
        prepared, checkpoint, former_end = _continued(prepared, output)
    model = build_model(
        prepared.method,
        prepared.context,
        prepared.liger,
        prepared.start_from,
        shard=prepared.settings.shard_base,
    )
    prepared.recorded.update(density_facts(prepared.settings, model))
    if prepared.settings.packing:
        prove_packing(model)
    # No process looks at the folder any more as it was, and none yet as it will be.
    meet()
    if is_first():
        _begin(prepared, checkpoint, listener, resume=resume, former_end=former_end)
    meet()
    prepared = with_reference(prepared, model, listener)
    model = train_stages(prepared, model, checkpoint, listener)
    meet()
    _check_learnt(prepared.settings)
    best = best_step(prepared)
    if best is not None and best != _last_step(output):
        listener.note(f"the result is that of step {best}, whose held-out loss is the lowest")
        # Before the next one is loaded.
        del model
        model = model_of_step(prepared, best)
    return _finish(prepared, model, best, listener)


def _begin(
    prepared: Prepared,
    checkpoint: Path | None,
    listener: Listener,
    *,
    resume: bool,
    former_end: int | None,
) -> None:
    """Make the folder ready for the first step."""
    output = Path(prepared.settings.output)
    if not resume:
        make_run_folder(output)
        clear_run(output)
    elif checkpoint is None:
        listener.note(f"{output} has no checkpoint yet: starting from the first step")
    _forget_later_lines(prepared, checkpoint, former_end)
    write_run_record(output, prepared.settings, prepared.recorded)


def _check_learnt(settings: RunSettings) -> None:
    """Raise `DataError` if no step had a token to learn: such a run has no result.

    A single one is no reason to stop, nor are many: where few rows of those that are read as they
    are needed can be learnt from, the steps that meet them are the run.
    """
    steps = train_records(read_metrics(Path(settings.output)))
    if not any(record["trained_tokens"] for record in steps):
        raise DataError(
            f"'{settings.data}': none of the rows of the run's {len(steps)} steps has a token to "
            f"learn within max_length={settings.max_length}; raise max_length"
        )


def _last_step(output: Path) -> int:
    return max((record["step"] for record in train_records(read_metrics(output))), default=0)


def _forget_later_lines(
    prepared: Prepared, checkpoint: Path | None, former_end: int | None
) -> None:
    """Drop from metrics and samples what was written after `checkpoint`, and the evaluation that
    was made because the run ended at the step `former_end`, where it does not end any more."""
    output = Path(prepared.settings.output)
    if checkpoint is None:
        truncate_metrics(output, -1)
        truncate_samples(output, -1)
        return
    later = [stage.name for stage in prepared.stages[read_stage(checkpoint) + 1 :]]
    extra = None
    if former_end is not None and not is_due(prepared.settings, former_end):
        extra = former_end
    truncate_metrics(output, step_of(checkpoint), later_stages=later, not_evaluated=extra)
    truncate_samples(output, step_of(checkpoint), later_stages=later, not_evaluated=extra)


def _continued(prepared: Prepared, output: Path) -> tuple[Prepared, Path | None, int | None]:
    """Find the run in `output`, if `prepared` goes on with it, its last checkpoint, and the step at
    which it was to end, if it is longer now."""
    values, sections = read_config(output / FILE)
    before = RunSettings.parse(values, where=str(output / FILE))
    recorded = sections.get("recorded", {})
    check_continues(
        before, recorded, prepared.settings, prepared.recorded, finished="result" in sections
    )
    check_stages(before, prepared)
    is_longer = before.max_steps != prepared.settings.max_steps
    check_same_plan(recorded, prepared.recorded, total_changed=is_longer)
    former_end = before.max_steps if is_longer else None
    return replace(prepared, recorded=recorded), latest_checkpoint(output), former_end


def _finish(prepared: Prepared, model: Any, best: int | None, listener: Listener) -> RunResult:
    """Write curve, card, adapter and record, in this order: the record tells that all is there."""
    output = Path(prepared.settings.output)
    records = read_metrics(output)
    trainable, total = count_parameters(model)
    result = summarize(
        output,
        records,
        trainable=trainable,
        total=total,
        peak_memory=peak_memory(prepared.context.device),
        best_step=best,
    )
    if not is_first():
        return result
    listener.trained(model, result)
    draw_loss_curve(
        records, output / LOSS_CURVE, title=f"{prepared.method.name} on {prepared.settings.model}"
    )

    def write(folder: Path) -> None:
        """Write the result, and the card, which depends on it, before anyone sees the result."""
        method, card = prepared.method, output / MODEL_CARD
        method.export(model, folder, prepared.context)
        write_model_card(card, prepared.settings, prepared.recorded, result, method, folder)

    files = publish(output, write)
    write_run_record(
        output, prepared.settings, prepared.recorded, {**result.as_record(), "files": files}
    )
    return result


def _in_one_line(error: Exception, prepared: Prepared) -> GossamerError | None:
    """The `GossamerError` to tell if disk or memory ran out; None: `error` is something else."""
    settings = prepared.settings
    trouble = disk_trouble(error)
    if trouble is not None:
        again = f"gossamer tune --output {settings.output} --resume"
        return StorageError(
            f"cannot go on with the run in {settings.output}: {trouble}; then go on with: {again}"
        )
    text = str(error).lower()
    ran_out = "out of memory" in text or "can't allocate memory" in text
    if not isinstance(error, MemoryError) and not (ran_out and isinstance(error, RuntimeError)):
        return None
    return TrainingError(
        f"not enough memory on {prepared.context.device}; try a smaller batch_size (now "
        f"{settings.batch_size}) with more gradient_accumulation, a smaller max_length (now "
        f"{settings.max_length}), gradient_checkpointing=true, or method qlora"
    )
