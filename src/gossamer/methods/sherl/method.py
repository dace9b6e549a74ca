"""From settings to a SHERL adapter."""

from typing import Any

from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.sherl.model import SherlConfig
from gossamer.methods.sherl.settings import SherlSettings
from gossamer.methods.sherl.side import kept_per_token


class Sherl(PeftMethod[SherlSettings]):
    """o = fc_out relu(sum_k w_k p_k + p_K) + g f_K takes the place of the last early state f_K.

    The early layers are frozen and have no backward pass; p_k are adapters of their states.
    """

    name = "sherl"
    settings_type = SherlSettings
    kind = "side-network"
    tuner_module = "gossamer.methods.sherl.model"
    inputs_kept = False

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return SherlConfig(task_type="CAUSAL_LM", **self.settings.model_dump())

    def layers_kept(self, layers: int) -> int:
        late = self._placed(layers).late_layers
        assert late is not None
        return late

    def kept_beside(self, layers: int, hidden: int, size: int) -> int:
        config = self._placed(layers)
        assert config.layers
        inner = hidden // config.reduction
        side = kept_per_token(hidden, inner, len(config.layers) + 1, form=config.form)
        # What comes out of it is kept by the layer behind it, or else by the model's last norm.
        return side + (0 if config.late_layers else hidden)

    def _placed(self, layers: int) -> SherlConfig:
        config = SherlConfig(**self.settings.model_dump())
        config.set_places("", layers)
        return config
