"""Settings of SMT."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import MethodSettings

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class SmtSettings(MethodSettings):
    """Settings of `smt`."""

    default_learning_rate = DefaultRate(
        1e-3, 1e-4, source="sweep on SmolLM2-135M at LoRA's size; the released script for LLaMA-7B"
    )

    attention_ratio: Share = 0.0084
    """Trainable share of the attention layers below, as a part of all weights of the model,
    embeddings and output head included."""

    mlp_ratio: Share = 0.0
    """Trainable share of the MLP layers below, likewise; ranked apart from attention."""

    attention_modules: list[str] = Field(default=["q_proj", "k_proj", "v_proj"])
    """Names of the attention layers whose blocks may be chosen."""

    mlp_modules: list[str] = Field(default=["gate_proj", "up_proj", "down_proj"])
    """Names of the MLP layers whose blocks may be chosen."""

    lora_rank: Count | None = None
    """Budget stated as a size of LoRA: as many weights learn as LoRA of this rank has on all linear
    layers of attention and of the MLP. Instead of attention_ratio and mlp_ratio."""

    block_size: Literal["auto"] | Count = "auto"
    """Edge of a square block of weights; blocks at the edges of a matrix may be smaller. auto: 64
    for models of a hidden size below 2048, where few layers would get larger ones, else 256."""

    criterion: Literal["abs_mean", "mean_abs", "L1", "L2"] = "abs_mean"
    """How a block is scored from its summed gradient: mean magnitude, magnitude of the mean, sum of
    magnitudes, root of the sum of squares."""

    quota: Literal["global", "per-matrix"] = "global"
    """Where the best blocks are taken: from all matrices of a part together, or the same number of
    weights from each matrix."""

    selection: Literal["probe", "train"] = "probe"
    """How gradients are gathered. probe: the base stays as it is, so the result is an adapter for
    it. train: real full fine-tuning first, as published; the base moves and is stored as well."""

    probe_batches: Count = 16
    """Batches whose gradients are summed, with selection=probe."""

    warmup_steps: Count = 100
    """Steps of full fine-tuning, with selection=train; they are part of the run's steps."""

    warmup_learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 9.65e-6
    """Learning rate of those steps; 9.65e-6 is that of the released code."""

    accumulate_on: Literal["cpu", "device"] = "cpu"
    """Where the summed gradients lie while blocks are chosen: 4 bytes for each weight of the layers
    that may be chosen."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        fields = type(self).model_fields
        for name in ("attention_ratio", "mlp_ratio"):
            if self.lora_rank is not None and getattr(self, name) != fields[name].default:
                raise ValueError(f"{name} and lora_rank both state the budget; leave one out")
        return self
