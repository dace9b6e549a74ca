"""Full fine-tuning: every weight learns, and the result is a whole model."""

from pathlib import Path
from typing import Any

from gossamer.methods.method import Method, MethodContext, MethodSettings
from gossamer.methods.registry import register


class FullSettings(MethodSettings):
    """Settings of `full`."""

    train_embeddings: bool = True
    """Whether the token embeddings (and an output head tied to them) learn too."""


@register
class Full(Method[FullSettings]):
    """All weights learn, kept in float32.

    Learning rate: 2e-5, the default of TRL, is a tenth of LoRA's; for the full fine-tuning of GPT-3
    the LoRA paper took 1/40 of it.
    """

    name = "full"
    summary = "all weights learn; the result is a whole model, not an adapter"
    kind = "model"
    settings_type = FullSettings
    learning_rate = 2e-5
    trains_base = True
    dense_because = "it trains the base"

    def prepare(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.model_parts import refuse_quantized

        refuse_quantized(model, self.name, "whole numbers have no gradient")
        model.requires_grad_(True)
        if not self.settings.train_embeddings:
            model.get_input_embeddings().requires_grad_(False)
        return model

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        from gossamer.methods.full.files import write_model

        write_model(model, folder, context)

    def restore(self, model: Any, folder: Path) -> None:
        from gossamer.methods.full.files import read_model

        read_model(model, folder)
