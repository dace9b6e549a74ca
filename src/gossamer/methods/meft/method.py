"""From settings to a MEFT adapter."""

from typing import Any

from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.meft.model import MeftConfig, default_layers
from gossamer.methods.meft.reversible import anchored
from gossamer.methods.meft.settings import MeftSettings


class Meft(PeftMethod[MeftSettings]):
    """y1 = lam x1 + F(x2), y2 = beta x2 + G(y1) in each layer, of which the backward pass rebuilds
    x1 and x2; two bottleneck adapters a layer learn (arXiv 2306.00477)."""

    name = "meft"
    kind = "two-stream"
    settings_type = MeftSettings
    size_setting = "width"
    tuner_module = "gossamer.methods.meft.model"
    dense_because = (
        "it computes each layer twice, from states that are only nearly the same, for which other "
        "channels might be chosen"
    )
    no_density_loss_because = (
        "it computes its reversible layers without a graph, and their gradients by itself, of "
        "which the term would be no part"
    )

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return MeftConfig(task_type="CAUSAL_LM", **self.settings.model_dump())

    def layers_kept(self, layers: int) -> int:
        # One, where there is no other: the layer that is computed again.
        return max(layers - self._reversible(layers), 1)

    def kept_beside(self, layers: int, hidden: int, size: int) -> int:
        config = MeftConfig(**self.settings.model_dump())
        kept = 1 + len(anchored(self._reversible(layers), config.spacing))
        return 2 * kept * hidden * config.dtype.itemsize // size

    def _reversible(self, layers: int) -> int:
        return self.settings.reversible_layers or default_layers(layers)
