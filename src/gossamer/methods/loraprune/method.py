"""LoRAPrune: structured pruning guided by LoRA's gradients, in the run that trains LoRA."""

from pathlib import Path
from typing import Any

from peft import LoraConfig, TaskType, get_peft_model

from gossamer.methods.common.method import Method, MethodContext
from gossamer.methods.common.targets import resolve_targets
from gossamer.methods.loraprune.export import export_smaller
from gossamer.methods.loraprune.model import find_groups
from gossamer.methods.loraprune.pruner import PruneInSteps, Pruner
from gossamer.methods.loraprune.settings import LorapruneSettings


class Loraprune(Method[LorapruneSettings]):
    """y = (W x + s B A x) * M: LoRA on all linear layers, under masks of ever more zeros.

    A group is a channel of an MLP, or a key/value head with its query heads. The least important by
    the gradients of A and B are masked by a cubic schedule; what is left goes on learning, and in
    the end LoRA is merged and the masked groups are cut out of the weights. The steps of the run
    are those of the schedule.
    """

    name = "loraprune"
    kind = "model"
    settings_type = LorapruneSettings
    size_setting = "rank"
    whole_base_because = "it compares the merged weights of whole layers between the steps"
    last_step_because = "it prunes along the way, and what earlier steps leave is larger than asked"
    dense_because = "it takes whole channels and heads away, of which plans know nothing"

    pruner: Pruner

    def prepare(self, model: Any, context: MethodContext) -> Any:
        settings = self.settings
        groups = find_groups(model)
        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=resolve_targets(model, "all-linear"),
        )
        model = get_peft_model(model, config)
        self.pruner = Pruner(groups, settings, context.seed)
        return model

    def depends_on_total(self) -> bool:
        return True

    def callbacks(self, context: MethodContext) -> list[Any]:
        return [PruneInSteps(self.pruner, self.settings, context.total_steps)]

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        self.pruner.write(model, folder)

    def restore(self, model: Any, folder: Path) -> None:
        self.pruner.read(model, folder)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        export_smaller(model, self.pruner, folder, context)
