"""VeLoRA: LoRA that keeps a compressed input for the backward pass (arXiv 2405.17991)."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from gossamer.methods.lora.config import LoraSettings, PositiveFloat, PositiveInt
from gossamer.methods.method import MethodContext
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


class VeloraSettings(LoraSettings):
    """Settings of `velora`."""

    compressed_modules: list[str] = Field(default=["v_proj", "down_proj"])
    """Layers, among those adapted, whose input is kept compressed; the paper's best choice."""

    groups: PositiveInt = 32
    """Numbers kept per token and layer instead of its whole input: more cost more memory and give
    a truer gradient."""

    gradient_scale: PositiveFloat = 1.0
    """Factor of the gradient made from the compressed input; Adam is nearly indifferent to it."""

    direction: Literal["first_batch", "every_batch", "random"] = "first_batch"
    """The direction on which inputs are projected: the mean of the first batch (the paper's
    choice), of every batch anew, or a random one."""


@register
class Velora(PeftMethod[VeloraSettings]):
    """LoRA whose dL/dA uses (x v) v^T for the input x, group by group; the output is exact.

    Only the thin A sees the approximation. It saves memory where nothing else keeps that input, and
    none under gradient checkpointing, which computes the input again anyway. The result is a plain
    LoRA adapter. Learning rate: 4e-4, the released LLaMA scripts', at rank 32 and alpha 16.
    """

    name = "velora"
    summary = "LoRA that keeps less of its inputs for the backward pass; saves activation memory"
    kind = "low-rank"
    settings_type = VeloraSettings
    learning_rate = 4e-4
    size_setting = "rank"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.velora.apply import velora_config

        settings = self.settings
        return velora_config(
            model,
            settings,
            groups=settings.groups,
            scale=settings.gradient_scale,
            direction=settings.direction,
        )

    def prepare(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.velora.apply import compress_only

        model = super().prepare(model, context)
        compress_only(model, self.settings.compressed_modules, self.settings.groups)
        return model

    def restore(self, model: Any, folder: Path) -> None:
        from gossamer.methods.velora.apply import keep_directions

        super().restore(model, folder)
        keep_directions(model)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        from gossamer.methods.low_rank_result import plain_factors, write_factors

        write_factors(folder, plain_factors(model), context)
