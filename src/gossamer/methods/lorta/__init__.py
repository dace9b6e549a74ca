"""LoRTA: one low-rank tensor for the attention matrices of all layers (arXiv 2410.04060).

For PEFT: `from gossamer.methods.lorta.model import LortaConfig`.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gossamer.methods.lora.config import PositiveFloat, PositiveInt
from gossamer.methods.method import MethodContext, MethodSettings
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


class LortaSettings(MethodSettings):
    """Settings of `lorta`."""

    rank: PositiveInt = 64
    """Rank of the tensor, and the most rank of the change of any one matrix."""

    alpha: PositiveFloat = 16.0
    """Strength: the change is scaled by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs set to zero at random while training, against overfitting."""

    target_modules: str | list[str] = "attention"
    """Matrices that the tensor spans: attention, or a list out of q_proj, k_proj, v_proj and
    o_proj."""

    init_scale: Annotated[float, Field(ge=0)] = 0.0
    """Larger values start the factors of heads, matrices and layers smaller: they are uniform up
    to sqrt(6 / ((1 + 5 init_scale²) rank))."""


@register
class Lorta(PeftMethod[LortaSettings]):
    """dW[l, m, h] = (alpha / r) A diag(C_H[h] * C_M[m] * C_L[l]) Bᵀ, one set of factors for all.

    Learning rate: 1e-2 is the lower end of the authors' settings for RoBERTa-large on GLUE (1e-2 to
    3e-2); theirs for GSM8K is 5e-2, and those for instructions are far smaller (2e-5 to 4e-4).
    """

    name = "lorta"
    summary = "one low-rank tensor for the attention of all layers; the smallest low-rank adapter"
    kind = "low-rank"
    settings_type = LortaSettings
    learning_rate = 1e-2
    size_setting = "rank"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.lorta.model import LortaConfig
        from gossamer.methods.targets import resolve_targets

        values = self.settings.model_dump()
        values["target_modules"] = resolve_targets(model, self.settings.target_modules)
        return LortaConfig(task_type="CAUSAL_LM", **values)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        from gossamer.methods.low_rank_layer import write_result

        write_result(model, folder, context)
