"""LaMDA and LaMDA++: a small square matrix between singular vectors learns (arXiv 2406.12832).

For PEFT: `from gossamer.methods.lamda.model import FreezeColumns, LamdaConfig`.
"""

from pathlib import Path
from typing import Any, ClassVar, TypeVar

from gossamer.methods.common.low_rank import write_result
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.common.targets import resolve_targets
from gossamer.methods.lamda.freezing import FreezeColumns
from gossamer.methods.lamda.model import LamdaConfig
from gossamer.methods.lamda.settings import LamdaPpSettings, LamdaSettings

L = TypeVar("L", bound=LamdaSettings)


class _LamdaMethod(PeftMethod[L]):
    kind = "low-rank"
    allocation: ClassVar[str]

    def __init__(self, settings: L) -> None:
        super().__init__(settings)
        if settings.freeze_share is not None:
            self.one_process_because = (
                "columns that freeze leave the gradients, whose exchange is arranged once (or set "
                "freeze_share to null)"
            )

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        values = self.settings.model_dump()
        values["target_modules"] = resolve_targets(model, self.settings.target_modules)
        return LamdaConfig(task_type="CAUSAL_LM", allocation=self.allocation, **values)

    def depends_on_total(self) -> bool:
        return self.settings.freeze_share is not None

    def callbacks(self, context: MethodContext) -> list[Any]:
        return [FreezeColumns()]

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        write_result(model, folder, context)


class Lamda(_LamdaMethod[LamdaSettings]):
    """W' = (W - s B0 S0 A) + s B S A; A and B0 hold singular vectors of W and S0 its singular
    values; S learns throughout, B until its columns are frozen, A never.
    """

    name = "lamda"
    settings_type = LamdaSettings
    size_setting = "rank"
    allocation = "equal"


class LamdaPp(_LamdaMethod[LamdaPpSettings]):
    """LaMDA++: LaMDA with more rank where the leading singular values hold less of the weight."""

    name = "lamda_pp"
    settings_type = LamdaPpSettings
    allocation = "spectrum"
