"""BitFit: only the biases of the linear layers learn (arXiv 2106.10199)."""

from typing import Any

from gossamer.methods.method import MethodContext, MethodSettings
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


class BitfitSettings(MethodSettings):
    """Settings of `bitfit`."""

    target_modules: str | list[str] = "all-linear"
    """Layers whose biases learn: all-linear, attention, mlp, or a list of layer names; those that
    have no bias are passed over."""


@register
class Bitfit(PeftMethod[BitfitSettings]):
    """y = W x + b + d, where d starts at zero and learns. Models without biases are refused.

    Learning rate: 1e-3 is that of the examples in the authors' code, for BERT.
    """

    name = "bitfit"
    summary = "only the biases learn; for models that have some"
    kind = "other"
    settings_type = BitfitSettings
    learning_rate = 1e-3

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.bitfit.apply import bias_config

        return bias_config(model, self.settings.target_modules)
