"""Prepares everything a run needs before its model is loaded; a dry run looks at the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.basemodel.files import fingerprint
from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_config, load_tokenizer
from gossamer.basemodel.quantize import name_of, quantization_of
from gossamer.errors import SettingError
from gossamer.machine import fit_threads
from gossamer.methods import Method, MethodContext, settings_type
from gossamer.sparsity.plan import SparsityPlan
from gossamer.training.collation import ProbeBatches
from gossamer.training.data import EncodedData, load_data
from gossamer.training.density.check import check_density
from gossamer.training.loop.device import choose_device, choose_dtype
from gossamer.training.loop.liger import check_liger, liger_kernels
from gossamer.training.loop.sparse_compute import sparse_plan
from gossamer.training.objectives.check import check_format, check_objective, reading
from gossamer.training.objectives.start import learnt_by
from gossamer.training.outputs.run_record import recorded_facts
from gossamer.training.outputs.trackers import check_trackers
from gossamer.training.packing.check import check_packing
from gossamer.training.packing.rows import pack
from gossamer.training.plan import RunPlan, StagePlan, make_plan, plan_stages
from gossamer.training.settings import RunSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that is about to begin."""

    settings: RunSettings
    """The settings with nothing left to choose: learning rate, dtype and device are those used."""
    method: Method[Any]
    context: MethodContext
    tokenizer: Any
    data: EncodedData
    plan: RunPlan
    sparse: SparsityPlan | None
    """The plan by which part of the base is computed; None: all of it."""
    liger: dict[str, bool] | None
    """The names of Liger's kernels, and whether each is used; None: none is."""
    start_from: Path | None
    """What another run has learnt, which this one goes on from; None: the method's own start."""
    stages: tuple[StagePlan, ...]
    recorded: dict[str, Any]
    """The facts that `run.yaml` records beside the settings."""


def prepare(settings: RunSettings) -> Prepared:
    """Find the base model, load tokenizer and data, make all choices.

    Raises `UsageError`, `BaseModelError` or `DataError`; nothing is written.
    """
    method = settings.build_method()
    _check_processes(settings, method)
    _check_shard(settings, method)
    _check_last_step(settings, method)
    fit_threads(settings.processes)
    device = choose_device(settings.device, processes=settings.processes)
    settings = settings.model_copy(
        update={
            "dtype": choose_dtype(settings.dtype, device),
            "device": device.split(":")[0],
        }
    )
    folder = resolve(settings.model)
    settings, rate_source = _with_learning_rate(settings, Path(folder))
    if settings.liger_kernel:
        check_liger(device, Path(folder))
    tokenizer = load_tokenizer(folder)
    check_packing(settings, method)
    check_objective(settings)
    data = load_data(reading(settings), tokenizer, seed=settings.seed)
    check_format(settings, data)
    data = pack(data, settings.max_length) if settings.packing else data
    plan = make_plan(settings, len(data.train))
    # The method is applied before the base is divided, in the host's memory.
    applied_on = "cpu" if settings.shard_base else device
    probe = ProbeBatches(data.train, tokenizer, settings, plan, device=applied_on)
    context = _context(settings, Path(folder), plan, probe, device=device)
    method.check(context)
    quantization = _quantization(method, context)
    if settings.shard_base and quantization is not None:
        raise SettingError(
            f"shard_base cannot go with a base quantised as {quantization}, whose packed weights "
            "are not divided; leave shard_base out, or use method 'lora' on the plain base"
        )
    sparse = sparse_plan(settings, method, context)
    check_density(settings, method)
    check_trackers(settings)
    return Prepared(
        settings=settings,
        method=method,
        context=context,
        tokenizer=tokenizer,
        data=data,
        plan=plan,
        sparse=sparse,
        liger=liger_kernels(sparse) if settings.liger_kernel else None,
        start_from=learnt_by(settings, method, context),
        stages=plan_stages(method.stages(context), settings, total=plan.steps),
        recorded=recorded_facts(
            settings,
            base_fingerprint=context.base_fingerprint,
            quantization=quantization,
            sparse_plan=None if sparse is None else sparse.model_dump(mode="json"),
            learning_rate_source=rate_source,
            left_out=data.report.left_out_rows() or None,
        ),
    )


def _check_processes(settings: RunSettings, method: Method[Any]) -> None:
    if settings.processes > 1 and method.one_process_because is not None:
        raise SettingError(
            f"processes={settings.processes} cannot go with method '{method.name}': "
            f"{method.one_process_because}; train it in one process"
        )


def _check_last_step(settings: RunSettings, method: Method[Any]) -> None:
    """Refuse to end before the last step, or with the weights of another one, where that is no
    result."""
    if method.last_step_because is None:
        return
    for name, is_asked in (
        ("load_best_at_end", settings.load_best_at_end),
        ("early_stop", settings.early_stop is not None),
    ):
        if is_asked:
            raise SettingError(
                f"{name} cannot go with method '{method.name}': {method.last_step_because}; "
                "leave it out, and watch the held-out loss of the last steps"
            )


def _check_shard(settings: RunSettings, method: Method[Any]) -> None:
    """Refuse to divide a base that cannot be, or among no one."""
    if not settings.shard_base:
        return
    if settings.processes == 1:
        raise SettingError(
            "shard_base divides the base model among the processes of a run, and this one has one; "
            "give processes=2 or more"
        )
    if method.whole_base_because is not None:
        raise SettingError(
            f"shard_base cannot go with method '{method.name}': {method.whole_base_because}; "
            "leave shard_base out"
        )
    if settings.sparse_compute is not None:
        raise SettingError(
            "shard_base cannot go with sparse_compute, which takes channels out of weights between "
            "the steps; leave one of them out"
        )
    if settings.objective == "dpo":
        raise SettingError(
            "shard_base cannot go with objective 'dpo': the processes compute its reference on "
            "rows of different lengths, each for itself; leave shard_base out, or use objective "
            "'orpo'"
        )


def _with_learning_rate(settings: RunSettings, folder: Path) -> tuple[RunSettings, str | None]:
    """The settings with a learning rate, and where it comes from; None: the user gave it."""
    if settings.learning_rate is not None:
        return settings, None
    width = load_config(folder).get_text_config().hidden_size
    rate = settings_type(settings.method).default_learning_rate.at(width)
    chosen = settings.model_copy(update={"learning_rate": rate})
    return chosen, f"default of {settings.method} at hidden size {width}"


def _quantization(method: Method[Any], context: MethodContext) -> str | None:
    """How the base is quantised that the run learns on; None: not at all."""
    config = method.quantization(context)
    name = quantization_of(load_config(context.base_folder)) if config is None else name_of(config)
    return None if name == "none" else name


def _context(
    settings: RunSettings, folder: Path, plan: RunPlan, probe: ProbeBatches, *, device: str
) -> MethodContext:
    return MethodContext(
        model_name=settings.model,
        base_folder=folder,
        base_fingerprint=fingerprint(folder),
        dtype=settings.dtype,
        device=device,
        seed=settings.seed,
        total_steps=plan.steps,
        gradient_checkpointing=settings.gradient_checkpointing,
        probe_batches=probe,
    )
