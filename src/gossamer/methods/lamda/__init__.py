"""LaMDA and LaMDA++: a small square matrix between singular vectors learns (arXiv 2406.12832).

For PEFT: `from gossamer.methods.lamda.model import FreezeColumns, LamdaConfig`.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from gossamer.methods.lora.config import PositiveFloat, PositiveInt
from gossamer.methods.method import MethodContext, MethodSettings
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


class LamdaSettings(MethodSettings):
    """Settings of `lamda`."""

    rank: PositiveInt = 32
    """Number of singular vectors; the square matrix between them has as many rows and columns."""

    alpha: PositiveFloat = 32.0
    """Strength: the change is scaled by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs set to zero at random while training, against overfitting."""

    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: all-linear, attention, mlp, or a list of layer names such as
    [q_proj, v_proj]. The output head is never one of them."""

    freeze_share: Annotated[float, Field(gt=0, le=1)] | None = 0.3
    """Share of the steps over which the columns of B freeze one after the other; `null`: B learns
    to the end."""

    svd: Literal["fast", "exact"] = "fast"
    """How singular vectors are found: `fast` is randomised, `exact` takes minutes for large
    models."""


L = TypeVar("L", bound=LamdaSettings)


class _LamdaMethod(PeftMethod[L]):
    kind = "low-rank"
    learning_rate = 3e-4
    allocation: ClassVar[str]

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.lamda.model import LamdaConfig
        from gossamer.methods.targets import resolve_targets

        values = self.settings.model_dump()
        values["target_modules"] = resolve_targets(model, self.settings.target_modules)
        return LamdaConfig(task_type="CAUSAL_LM", allocation=self.allocation, **values)

    def depends_on_total(self) -> bool:
        return self.settings.freeze_share is not None

    def callbacks(self, context: MethodContext) -> list[Any]:
        from gossamer.methods.lamda.freezing import FreezeColumns

        return [FreezeColumns()]

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        from gossamer.methods.low_rank_layer import write_result

        write_result(model, folder, context)


@register
class Lamda(_LamdaMethod[LamdaSettings]):
    """W' = (W - s B0 S0 A) + s B S A; A and B0 hold singular vectors of W and S0 its singular
    values; S learns throughout, B until its columns are frozen, A never.

    Learning rate: 3e-4 is that of the authors' scripts at rank 64.
    """

    name = "lamda"
    summary = "a small matrix between singular vectors learns; very few parameters"
    settings_type = LamdaSettings
    size_setting = "rank"
    allocation = "equal"


class LamdaPpSettings(LamdaSettings):
    """Settings of `lamda_pp`."""

    rank: PositiveInt = 32
    """Mean rank: by its spectrum each layer gets from half to twice as much; the sum is fixed."""


@register
class LamdaPp(_LamdaMethod[LamdaPpSettings]):
    """LaMDA++: LaMDA with more rank where the leading singular values hold less of the weight.

    Learning rate: 3e-4 is that of the authors' scripts for LaMDA.
    """

    name = "lamda_pp"
    summary = "LaMDA with ranks by the spectra of the weights, under one budget"
    settings_type = LamdaPpSettings
    allocation = "spectrum"
