"""From settings to a ReFT adapter."""

from typing import Any, TypeVar

from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.reft.model import ReftConfig
from gossamer.methods.reft.settings import (
    DireftSettings,
    LoreftSettings,
    NodireftSettings,
    ReftSettings,
)

R = TypeVar("R", bound=ReftSettings)


class ReftMethod(PeftMethod[R]):
    """What LoReFT, DiReFT and NodiReFT share; the name of the method is the variant."""

    kind = "intervention"
    size_setting = "rank"
    tuner_module = "gossamer.methods.reft.model"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return ReftConfig(task_type="CAUSAL_LM", variant=self.name, **self.settings.model_dump())


class Loreft(ReftMethod[LoreftSettings]):
    """h' = h + Rᵀ(W h + b - R h) at prompt positions; R has orthonormal rows; R, W and b learn."""

    name = "loreft"
    settings_type = LoreftSettings


class Direft(ReftMethod[DireftSettings]):
    """h' = h + Rᵀ(W h + b) at prompt positions; R, W and b learn, R being free: the DiReFT of the
    paper, which the authors' library calls Nodireft.
    """

    name = "direft"
    settings_type = DireftSettings


class Nodireft(ReftMethod[NodireftSettings]):
    """NodiReFT: `direft` with its defaults, under the name of the authors' library."""

    name = "nodireft"
    settings_type = NodireftSettings
