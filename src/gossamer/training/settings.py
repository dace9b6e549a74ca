"""The settings that define a run, and how a config file, options and assignments make them up."""

from collections.abc import Mapping
from os import PathLike
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gossamer.errors import SettingError, unknown_name_message
from gossamer.methods import Method, find, parse_settings, settings_type
from gossamer.training.data import DataSettings
from gossamer.training.density.settings import DensitySettings
from gossamer.training.objectives.settings import ObjectiveSettings

PositiveInt = Annotated[int, Field(ge=1)]
DtypeName = Literal["auto", "float32", "bfloat16"]
DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16"}


class RunSettings(ObjectiveSettings, DensitySettings, DataSettings):
    """One training run, complete. A run is repeated exactly by the same settings and files."""

    model: str
    """Base model: an alias such as smollm2-135m, a folder, or a hub id."""

    output: str
    """Folder of the run: the adapter, its record, metrics, curve and checkpoints."""

    method: str = "lora"
    """How to learn; `gossamer tune --help` lists the methods."""

    method_settings: dict[str, Any] = Field(default={})
    """Settings of the method; `gossamer tune --help-method NAME` lists them."""

    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3.0
    """Passes over the training rows; not used where max_steps is given."""

    max_steps: PositiveInt | None = None
    """Optimizer steps to take, whatever the number of rows; unset: as many as `epochs` needs."""

    batch_size: PositiveInt = 8
    """Rows per forward pass, of each of the `processes`."""

    processes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes that learn together, each on rows of its own: one per GPU, or a share of the cores
    each. A step sees `processes` times as many rows, as one process with so much larger a
    batch_size would. Under torchrun: as many as it has started."""

    shard_base: bool = False
    """Whether the `processes` divide the base model's layers among them, for bases too large for
    one GPU; each gathers a layer while it computes it. What learns is whole in all of them."""

    packing: bool = False
    """Whether short rows are put together into rows of up to max_length tokens, which do not see
    each other; batch_size and epochs then count those. For rows much shorter than max_length."""

    gradient_accumulation: PositiveInt = 1
    """Forward passes per optimizer step; a step sees batch_size times
    `processes` times as many rows."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Peak learning rate; unset: the method's default for a model of this width, which
    `gossamer tune --help-method NAME` tells."""

    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up: down to zero in a line or a half cosine, or
    constant. Only a constant one lets a finished run be continued with more steps."""

    warmup: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.03
    """Warm-up of the learning rate from zero: a share of all steps if below 1, else steps."""

    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """AdamW's decoupled weight decay on the trained weights, norms and biases excepted."""

    max_grad_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Gradients are scaled down to this total norm if above; 0: never."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Fixes the adapter's start, the order of the rows, dropout, and the split for evaluation."""

    dtype: DtypeName = "auto"
    """Compute type: auto, float32 (fp32) or bfloat16 (bf16). Auto is bfloat16 on GPUs and CPUs that
    compute in it, else float32: CPUs that only emulate it are 30 times slower."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: the first GPU, else the CPU."""

    neftune_noise_alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """NEFTune: noise on the embeddings while training, uniform and at most this number divided by
    the root of (tokens of a row, padding included, times the model's width); often 5. Unset:
    none."""

    gradient_checkpointing: bool = False
    """Whether to recompute activations in the backward pass: measured on SmolLM2-135M, 29 % less
    memory for 46 % more time. TRL's default is true; ours is what fits small models and batches."""

    sparse_compute: str | None = None
    """Compute only part of the frozen base while learning: a plan's file, or the name of a
    published plan (`gossamer sparsity list`). Unset: all of it."""

    liger_kernel: bool = False
    """Whether norms and gated MLPs of the base compute by Liger's fused kernels, which need a GPU
    and `pip install -e '.[liger]'`; with a sparse_compute that slices MLPs, norms only."""

    eval_every: PositiveInt | None = None
    """Steps between evaluations; unset: only at the start and at the end."""

    eval_at_start: bool = True
    """Whether to evaluate the untrained model first, to see what training gains."""

    samples: Annotated[int, Field(ge=0, le=16)] = 0
    """Held-out prompts that the model answers at each evaluation, the same ones each time, into
    samples.json: up to 48 tokens each, the likeliest. The losses are the same with and without; a
    comparison takes them once, of each model that is scored. 0: none."""

    early_stop: PositiveInt | None = None
    """End the run after this many evaluations in a row (see eval_every) without a lower loss on the
    held-out rows; unset: all steps are taken. Of a run in stages, the last one ends."""

    early_stop_threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """How much the held-out loss must fall below the lowest so far, for early_stop to go on."""

    load_best_at_end: bool = False
    """Whether the result is that of the evaluation with the lowest loss on the held-out rows,
    whose checkpoint is kept, instead of the last step's."""

    save_every: PositiveInt = 50
    """Steps between checkpoints; there is one after the last step and after Ctrl-C in any case."""

    save_total_limit: PositiveInt = 2
    """Checkpoints to keep; older ones are removed."""

    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = Field(default=[])
    """Trackers that are told loss, learning rate and all other figures of each step and
    evaluation; each needs an extra of its name. Nothing is reported by default."""

    log_every: PositiveInt = 10
    """Steps between lines on a screen that is no terminal; the metrics file has every step."""

    @model_validator(mode="before")
    @classmethod
    def _accept_short_forms(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = {k: str(v) if isinstance(v, PathLike) else v for k, v in values.items()}
        if isinstance(values.get("dtype"), str):
            values["dtype"] = DTYPE_ALIASES.get(values["dtype"], values["dtype"])
        if isinstance(values.get("report_to"), str):
            values["report_to"] = [values["report_to"]]
        return values

    @model_validator(mode="after")
    def _rows_to_judge_by(self) -> Self:
        wanted = "early_stop" if self.early_stop is not None else None
        wanted = "load_best_at_end" if self.load_best_at_end else wanted
        if wanted is None:
            return self
        if self.eval_data is None and not self.eval_split:
            raise ValueError(f"{wanted} needs held-out rows; give eval_data or eval_split")
        if self.eval_every is None:
            raise ValueError(f"{wanted} needs eval_every, the steps between evaluations")
        return self

    def build_method(self) -> Method[Any]:
        """Build the method with its settings; raises `UnknownNameError` or `SettingError`."""
        return find(self.method).from_values(self.method_settings)


def assemble(
    config: Mapping[str, Any], options: Mapping[str, Any], assignments: Mapping[str, Any]
) -> RunSettings:
    """Read settings from a config file, overridden by options, overridden by assignments.

    Options that are None count as not given. Assignments are `{name: value}` where the name is a
    setting of the run, of its data or of its method. If the chosen method is not the config's, the
    config's method settings are left out. All method settings are filled in with their defaults.
    Raises `SettingError` or `UnknownNameError` naming key, value and remedy.
    """
    values = {**config, **{key: value for key, value in options.items() if value is not None}}
    own = {key: value for key, value in assignments.items() if key in RunSettings.model_fields}
    values |= own
    name = str(values.get("method", RunSettings.model_fields["method"].default))
    inherited = values.get("method_settings") or {}
    if not isinstance(inherited, Mapping):
        raise SettingError(f"run: setting 'method_settings' = {inherited!r}: must be a mapping")
    if name != config.get("method", name) and "method_settings" not in own:
        inherited = {}
    of_method = {key: value for key, value in assignments.items() if key not in own}
    _check_names(of_method, name)
    values["method_settings"] = parse_settings(name, {**inherited, **of_method}).model_dump(
        mode="json"
    )
    return RunSettings.parse(values, where="run")


def setting_names(method: str) -> list[str]:
    """All names that an assignment may have in a run with the method of that name, sorted."""
    return sorted({*RunSettings.model_fields, *settings_type(method).model_fields})


def _check_names(assignments: Mapping[str, Any], method: str) -> None:
    for key in assignments:
        if key not in settings_type(method).model_fields:
            raise SettingError(
                f"{unknown_name_message('setting', key, setting_names(method))}; "
                f"`gossamer tune --help-method {method}` lists them all"
            )
