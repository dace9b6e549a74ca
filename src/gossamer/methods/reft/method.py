"""From settings to a ReFT adapter."""

from typing import Any, TypeVar

from gossamer.methods.method import MethodContext
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.reft.settings import ReftSettings

R = TypeVar("R", bound=ReftSettings)


class ReftMethod(PeftMethod[R]):
    """What LoReFT, DiReFT and NodiReFT share; the name of the method is the variant."""

    kind = "intervention"
    learning_rate = 9e-4
    size_setting = "rank"
    tuner_module = "gossamer.methods.reft.model"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.reft.model import ReftConfig

        return ReftConfig(task_type="CAUSAL_LM", variant=self.name, **self.settings.model_dump())
