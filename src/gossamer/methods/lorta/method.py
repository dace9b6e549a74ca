"""LoRTA: one low-rank tensor for the attention matrices of all layers (arXiv 2410.04060).

For PEFT: `from gossamer.methods.lorta.model import LortaConfig`.
"""

from pathlib import Path
from typing import Any

from gossamer.methods.common.low_rank import write_result
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.common.targets import resolve_targets
from gossamer.methods.lorta.model import LortaConfig
from gossamer.methods.lorta.settings import LortaSettings


class Lorta(PeftMethod[LortaSettings]):
    """dW[l, m, h] = (alpha / r) A diag(C_H[h] * C_M[m] * C_L[l]) Bᵀ, one set of factors for all."""

    name = "lorta"
    kind = "low-rank"
    settings_type = LortaSettings
    size_setting = "rank"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        values = self.settings.model_dump()
        values["target_modules"] = resolve_targets(model, self.settings.target_modules)
        return LortaConfig(task_type="CAUSAL_LM", **values)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        write_result(model, folder, context)
