"""What tuners of single linear layers share: putting their layer where a linear layer stood."""

from typing import Any, ClassVar

from torch import nn

from gossamer.methods.peft_bridge import GossamerConfig, GossamerTuner
from gossamer.methods.tuner_layer import require_linear


class LinearTuner(GossamerTuner):
    """Replaces linear layers by `tuner_layer_cls`, which is made of the layer it replaces.

    Subclasses name their `method`, and set `allow_4bit` where quantised weights will do; otherwise
    those raise `SettingError`.
    """

    method: ClassVar[str]
    allow_4bit: ClassVar[bool] = False

    def _create_and_replace(
        self,
        config: GossamerConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        layer: Any = target
        if not isinstance(target, self.tuner_layer_cls):
            require_linear(target, current_key, method=self.method, quantized=self.allow_4bit)
            layer = self.tuner_layer_cls(target)
            self._replace_module(parent, target_name, layer, target)
        layer.update_layer(adapter_name, config, current_key, inference_mode=config.inference_mode)
