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
    learning_rate = ReftSettings.default_learning_rate
    size_setting = "rank"
    tuner_module = "gossamer.methods.reft.model"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return ReftConfig(task_type="CAUSAL_LM", variant=self.name, **self.settings.model_dump())


class Loreft(ReftMethod[LoreftSettings]):
    """h' = h + Rᵀ(W h + b - R h) at prompt positions; R has orthonormal rows; R, W and b learn.

    Learning rate: 9e-4 is the paper's for LLaMA, tuned on GSM8K and used for all its sizes and
    tasks of commonsense, arithmetic and instructions; so are rank 8 and 7 + 7 tied positions.
    """

    name = "loreft"
    settings_type = LoreftSettings


class Direft(ReftMethod[DireftSettings]):
    """h' = h + Rᵀ(W h + b) at prompt positions; R, W and b learn, R being free: the DiReFT of the
    paper, which the authors' library calls Nodireft.

    Learning rate: 9e-4 is the paper's for LLaMA, as for LoReFT.
    """

    name = "direft"
    settings_type = DireftSettings


class Nodireft(ReftMethod[NodireftSettings]):
    """NodiReFT: `direft` with its defaults, under the name of the authors' library.

    Learning rate: 9e-4 is the paper's for LLaMA, as for LoReFT.
    """

    name = "nodireft"
    settings_type = NodireftSettings
