"""Layer-norm tuning: only the normalisation layers' weights learn (arXiv 2312.11420)."""

import warnings
from typing import Any

from gossamer.methods.method import MethodContext, MethodSettings
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


class LnTuningSettings(MethodSettings):
    """Settings of `ln_tuning`."""

    norms: list[str] | None = None
    """Names of the normalisation layers that learn, such as [input_layernorm]; unset: all."""


@register
class LnTuning(PeftMethod[LnTuningSettings]):
    """y = g * x / rms(x) (and + b where the norm has one): g and b learn, the rest is frozen.

    Learning rate: 1e-3, as for `bitfit`, which moves as few weights; ours.
    """

    name = "ln_tuning"
    summary = "only the weights of the normalisation layers learn"
    kind = "other"
    settings_type = LnTuningSettings
    learning_rate = 1e-3

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.ln_tuning.apply import ln_config

        return ln_config(model, self.settings.norms)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.model_parts import learn_in_float32

        with warnings.catch_warnings():
            # PEFT asks norms for the sizes that only linear layers have.
            warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
            model = super().prepare(model, context)
        return learn_in_float32(model)
