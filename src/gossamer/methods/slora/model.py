"""SLoRA in PEFT: importing this module makes `get_peft_model` and `from_pretrained` know it."""

from gossamer.methods.common.peft_tuner import GossamerTuner, register_tuner
from gossamer.methods.slora.config import SloraConfig
from gossamer.methods.slora.layer import SloraLinear

__all__ = ["SloraConfig", "SloraModel"]


class SloraModel(GossamerTuner):
    """Replaces linear layers by `SloraLinear`s. Raises `SettingError` for quantised weights."""

    method = "slora"
    prefix = "slora_"
    tuner_layer_cls = SloraLinear


register_tuner(SloraConfig.tuner_type, SloraConfig, SloraModel, SloraModel.prefix)
