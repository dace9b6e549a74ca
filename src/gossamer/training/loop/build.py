"""Puts together the model, method and trainer of a run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, set_seed
from trl import DPOConfig, SFTConfig

from gossamer.basemodel.load import load_model
from gossamer.basemodel.versions import checkpointing_argument
from gossamer.errors import CheckpointError
from gossamer.methods import Method, MethodContext
from gossamer.methods.common.ranks import rank
from gossamer.training.collation import collator, features
from gossamer.training.data import EncodedData
from gossamer.training.density.meter import DensityMeter
from gossamer.training.loop.liger import use_liger
from gossamer.training.loop.preference_trainer import PreferenceTrainer
from gossamer.training.loop.trainer import RunBehaviour, RunTrainer
from gossamer.training.loop.trainer_hooks import use_one_gpu
from gossamer.training.objectives.start import checkpoint_of_result
from gossamer.training.outputs.run_folder import is_run
from gossamer.training.outputs.trackers import reporting_arguments
from gossamer.training.plan import RunPlan, StagePlan
from gossamer.training.processes.shard import leave_to_fsdp, shard_blocks
from gossamer.training.settings import RunSettings


def build_model(
    method: Method[Any],
    context: MethodContext,
    liger: dict[str, bool] | None = None,
    start_from: Path | None = None,
    *,
    shard: bool = False,
) -> Any:
    """The base model with the method applied; its random start depends on the seed alone.

    `liger`: kernels of Liger that the base computes by; None: its own. `start_from`: what a run
    of the same method has learnt, to be learnt on; raises `CheckpointError` if it does not fit.
    `shard`: divide the base among the processes of the run.
    """
    dtype = torch.float32 if method.trains_base else getattr(torch, context.dtype)
    model = load_model(
        context.base_folder,
        dtype=dtype,
        # Divided later: a base that needs it may be too large for one device.
        device="cpu" if shard else context.device,
        quantization_config=method.quantization(context),
    )
    if liger is not None:
        # Before adapters wrap the layers that Liger looks for.
        use_liger(model, liger)
    base = list(model.parameters())
    set_seed(context.seed)
    model = method.prepare(model, replace(context, device="cpu") if shard else context)
    if start_from is not None:
        _go_on(method, model, start_from)
    return shard_blocks(model, base, context.device) if shard else model


def _go_on(method: Method[Any], model: Any, start_from: Path) -> None:
    """Give `model` what `method` has learnt in another run."""
    try:
        method.restore(model, start_from)
    except Exception as error:
        if is_run(start_from):
            missing = checkpoint_of_result(start_from)
            raise CheckpointError(
                f"start_from: {missing} is not there, and method '{method.name}' cannot go on from "
                f"the result alone; keep {missing.relative_to(start_from)} of a run that another "
                "is to go on from"
            ) from error
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"start_from: what {start_from} holds does not fit this run ({first}); give the run "
            "the method settings of that one"
        ) from error


def build_trainer(
    model: Any,
    tokenizer: Any,
    data: EncodedData,
    *,
    settings: RunSettings,
    method: Method[Any],
    context: MethodContext,
    plan: RunPlan,
    stage: StagePlan,
    callbacks: Sequence[Any] = (),
    density: DensityMeter | None = None,
) -> RunBehaviour:
    """A trainer that carries out `stage`; it takes over the random state from here."""
    before = {n: p.data for n, p in model.named_parameters() if p.requires_grad}
    trainer_class = RunTrainer if settings.objective == "sft" else PreferenceTrainer
    trainer = trainer_class(
        settings=settings,
        method=method,
        context=context,
        plan=plan,
        stage=stage,
        eval_rows=data.eval,
        density=density,
        model=model,
        args=_arguments(settings, context, stage),
        train_dataset=_dataset(data.train[:1] if data.report.lazy else data.train),
        data_collator=collator(tokenizer),
        processing_class=tokenizer,
        callbacks=[*method.callbacks(context), *callbacks],
    )
    if data.report.lazy:
        # TRL asks for a data set of its library, though any will do.
        trainer.train_dataset = _LazyDataset(data.train)
    # TRL turns the adapter of a quantised base into bfloat16; ours stays as the method made it.
    for name, parameter in model.named_parameters():
        if name in before and parameter.dtype != before[name].dtype:
            parameter.data = before[name]
    trainer.remove_callback(PrinterCallback)
    if settings.shard_base:
        leave_to_fsdp(model)
    if rank() > 0:
        # What is dropped from rows of one process says nothing of another's.
        set_seed(context.seed + rank())
    return trainer


def _arguments(settings: RunSettings, context: MethodContext, stage: StagePlan) -> Any:
    config, own = _of_objective(settings)
    arguments = config(
        output_dir=settings.output,
        use_cpu=context.device == "cpu",
        bf16=context.dtype == "bfloat16",
        max_steps=stage.end,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=stage.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        **{checkpointing_argument(): settings.gradient_checkpointing},
        # Rows come tokenised and cut.
        max_length=None,
        **own,
        # The run's own callback evaluates, saves and shows.
        eval_strategy="no",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        neftune_noise_alpha=settings.neftune_noise_alpha,
        **reporting_arguments(settings),
        dataloader_pin_memory=context.device != "cpu",
        # With several processes: all that learns has a gradient in each step, and what does not
        # learn is the same everywhere.
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
    )
    if context.device != "cpu":
        use_one_gpu(arguments)
    return arguments


def _of_objective(settings: RunSettings) -> tuple[Any, dict[str, Any]]:
    """The class of TRL's arguments, and those that other objectives do not have."""
    if settings.objective == "sft":
        return SFTConfig, {"dataset_kwargs": {"skip_prepare_dataset": True}}
    with_sft = settings.dpo_sft_weight > 0
    return DPOConfig, {
        "remove_unused_columns": False,
        "beta": settings.preference_beta,
        "loss_type": [settings.dpo_loss, "sft"] if with_sft else [settings.dpo_loss],
        "loss_weights": [1.0, settings.dpo_sft_weight] if with_sft else None,
        "label_smoothing": settings.dpo_label_smoothing,
    }


class _LazyDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows as a collator takes them, made when they are asked for."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return features(self._rows[index])


def _dataset(rows: Sequence[Any]) -> Dataset:
    columns = [features(row) for row in rows]
    return Dataset.from_dict({name: [c[name] for c in columns] for name in columns[0]})
