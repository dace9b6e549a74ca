"""Puts together the model, method and trainer of a run."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, set_seed
from trl import SFTConfig

from gossamer.basemodel.load import load_model
from gossamer.basemodel.versions import checkpointing_argument
from gossamer.methods import Method, MethodContext
from gossamer.training.data import EncodedData, Example
from gossamer.training.loop.liger import use_liger
from gossamer.training.loop.trainer import RunTrainer
from gossamer.training.plan import RunPlan, StagePlan, collator
from gossamer.training.settings import RunSettings


def build_model(
    method: Method[Any], context: MethodContext, liger: dict[str, bool] | None = None
) -> Any:
    """The base model with the method applied; its random start depends on the seed alone.

    `liger`: kernels of Liger that the base computes by; None: its own.
    """
    dtype = torch.float32 if method.trains_base else getattr(torch, context.dtype)
    model = load_model(
        context.base_folder,
        dtype=dtype,
        device=context.device,
        quantization_config=method.quantization(context),
    )
    if liger is not None:
        # Before adapters wrap the layers that Liger looks for.
        use_liger(model, liger)
    set_seed(context.seed)
    return method.prepare(model, context)


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
) -> RunTrainer:
    """A trainer that carries out `stage`; it takes over the random state from here."""
    before = {n: p.data for n, p in model.named_parameters() if p.requires_grad}
    trainer = RunTrainer(
        settings=settings,
        method=method,
        context=context,
        plan=plan,
        stage=stage,
        eval_rows=data.eval,
        model=model,
        args=_arguments(settings, context, stage),
        train_dataset=_dataset(data.train),
        data_collator=collator(tokenizer),
        processing_class=tokenizer,
        callbacks=[*method.callbacks(context), *callbacks],
    )
    # TRL turns the adapter of a quantised base into bfloat16; ours stays as the method made it.
    for name, parameter in model.named_parameters():
        if name in before and parameter.dtype != before[name].dtype:
            parameter.data = before[name]
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(settings: RunSettings, context: MethodContext, stage: StagePlan) -> SFTConfig:
    arguments = SFTConfig(
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
        dataset_kwargs={"skip_prepare_dataset": True},
        # The run's own callback evaluates, saves and shows.
        eval_strategy="no",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        dataloader_pin_memory=context.device != "cpu",
    )
    if context.device != "cpu":
        # One process trains on one GPU, however many are visible.
        arguments._n_gpu = 1
    return arguments


def _dataset(rows: list[Example]) -> Dataset:
    return Dataset.from_dict(
        {"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]}
    )
