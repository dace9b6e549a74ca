"""Full fine-tuning: every weight learns, and the result is a whole model."""

from pathlib import Path
from typing import Any

from gossamer.methods.common.files import read_model, write_model
from gossamer.methods.common.method import Method, MethodContext
from gossamer.methods.common.targets import refuse_quantized
from gossamer.methods.settings import FullSettings


class Full(Method[FullSettings]):
    """All weights learn, kept in float32."""

    name = "full"
    kind = "model"
    settings_type = FullSettings
    whole_base_because = "it learns the weights that the processes would divide"
    trains_base = True
    dense_because = "it trains the base"

    def prepare(self, model: Any, context: MethodContext) -> Any:
        refuse_quantized(model, self.name, "whole numbers have no gradient")
        model.requires_grad_(True)
        if not self.settings.train_embeddings:
            model.get_input_embeddings().requires_grad_(False)
        return model

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        write_model(model, folder, context)

    def restore(self, model: Any, folder: Path) -> None:
        read_model(model, folder)
