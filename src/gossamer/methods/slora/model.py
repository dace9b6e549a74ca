"""SLoRA in PEFT: importing this module makes `get_peft_model` and `from_pretrained` know it."""

from typing import Any

from torch import nn

from gossamer.methods.entries.layer import require_linear
from gossamer.methods.peft_bridge import GossamerTuner, register_tuner
from gossamer.methods.slora.config import SloraConfig
from gossamer.methods.slora.layer import SloraLayer


class SloraModel(GossamerTuner):
    """Replaces linear layers by `SloraLayer`s. Raises `SettingError` for quantised weights."""

    prefix = "slora_"
    tuner_layer_cls = SloraLayer

    def _create_and_replace(
        self,
        config: SloraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        if not isinstance(target, SloraLayer):
            require_linear(target, current_key, method="slora", allow_4bit=False)
            layer = SloraLayer(target)
            self._replace_module(parent, target_name, layer, target)
            target = layer
        target.update_layer(adapter_name, config, current_key, inference_mode=config.inference_mode)


register_tuner(SloraConfig.tuner_type, SloraConfig, SloraModel, SloraModel.prefix)
