"""Bottleneck adapters: small networks behind the sublayers, as of Houlsby and of Pfeiffer."""

from typing import Any

from gossamer.methods.bottleneck.model import bottleneck_config
from gossamer.methods.bottleneck.settings import HoulsbySettings, PfeifferSettings
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod


class _Bottleneck(PeftMethod[Any]):
    kind = "bottleneck"
    tuner_module = "gossamer.methods.bottleneck.model"
    size_setting = "width"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return bottleneck_config(model, self.settings.model_dump())


class Houlsby(_Bottleneck):
    """h + scale * (U f(D h + b1) + b2) behind attention and MLP, before each is added (1902.00751).

    U and b2 start at zero, so the start is the base. The norms, which the paper trains too, stay as
    they are. Not linear, so it cannot be merged.
    """

    name = "houlsby"
    settings_type = HoulsbySettings


class Pfeiffer(_Bottleneck):
    """h + scale * (U f(D h + b1) + b2) behind the MLP only (arXiv 2005.00247).

    Half the weights of `houlsby`, and about as good in the paper. Not linear, so it cannot be
    merged.
    """

    name = "pfeiffer"
    settings_type = PfeifferSettings
