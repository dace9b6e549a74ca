"""AdaLoRA: a budget of ranks that moves to the layers that need it (arXiv 2303.10512)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from gossamer.methods.lora.config import PositiveFloat, PositiveInt
from gossamer.methods.method import MethodContext, MethodSettings
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register

if TYPE_CHECKING:
    from gossamer.methods.adalora.state import Allocation

Share = Annotated[float, Field(ge=0, lt=1)]
Average = Annotated[float, Field(gt=0, lt=1)]


class AdaloraSettings(MethodSettings):
    """Settings of `adalora`."""

    rank: PositiveInt = 8
    """Mean rank of a layer at the end."""

    initial_rank: PositiveInt = 12
    """Rank of every layer at the start; must be larger than rank."""

    alpha: PositiveFloat = 24.0
    """Strength: the update is scaled by alpha / initial_rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs set to zero at random while training."""

    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: all-linear, attention, mlp, or a list of layer names."""

    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the decoder layers to adapt, counted from 0; unset: all."""

    first_share: Share = 0.1
    """Share of the steps before ranks are taken away."""

    last_share: Share = 0.3
    """Share of the steps after that, with the ranks left as they are."""

    interval: PositiveInt = 1
    """Steps between two allocations of the budget."""

    orthogonality: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the term that keeps each layer's P and Q orthogonal."""

    sensitivity_average: Average = 0.85
    """Share of the old value in the running mean of each weight's importance."""

    uncertainty_average: Average = 0.85
    """The same of its variation."""


@register
class Adalora(PeftMethod[AdaloraSettings]):
    """y = W x + (alpha / initial_rank) P diag(l) Q x; the least important l become zero.

    Importance is the running mean of |weight * gradient| times its variation. The steps of the run
    are those of the schedule. The result is a plain LoRA adapter with a rank for each layer.
    Learning rate: 1e-3, a common choice for AdaLoRA, whose strengths start at zero; ours.
    """

    name = "adalora"
    summary = "LoRA whose ranks move to the layers that matter most while it learns"
    kind = "low-rank"
    settings_type = AdaloraSettings
    learning_rate = 1e-3

    _allocation: "Allocation"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.adalora.apply import adalora_config

        settings = self.settings
        total = context.total_steps
        first, last = int(settings.first_share * total), int(settings.last_share * total)
        return adalora_config(model, settings.model_dump(), first=first, last=last, total=total)

    def depends_on_total(self) -> bool:
        return True

    def prepare(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.adalora.state import Allocation

        model = super().prepare(model, context)
        self._allocation = Allocation(model)
        return model

    def callbacks(self, context: MethodContext) -> list[Any]:
        from gossamer.methods.adalora.apply import AllocateRanks

        return [AllocateRanks(self._allocation)]

    def regularizer(self, model: Any) -> Any:
        from gossamer.methods.adalora.apply import orthogonality

        weight = self.settings.orthogonality
        return orthogonality(model) * weight if weight else None

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        self._allocation.write(folder)

    def restore(self, model: Any, folder: Path) -> None:
        self._allocation.read(folder)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        from gossamer.methods.adalora.apply import kept_factors
        from gossamer.methods.low_rank_result import write_factors

        write_factors(folder, kept_factors(model), context)
