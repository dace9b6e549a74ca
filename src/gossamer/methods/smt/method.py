"""SMT, sparse matrix tuning: blocks of the weights learn, the rest is frozen (arXiv 2405.15525)."""

from pathlib import Path
from typing import Any

from gossamer.errors import SettingError
from gossamer.methods.common.method import Kind, MethodContext, Stage
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.smt.select import adam, probed_config
from gossamer.methods.smt.settings import SmtSettings
from gossamer.methods.smt.whole_run import (
    RunningSums,
    blocks_as_saved,
    export_model,
    restore_state,
    save_state,
    start_blocks,
    start_warm_up,
)


class Smt(PeftMethod[SmtSettings]):
    """W' = W + D, where D is zero but in the blocks that a warm-up found to matter.

    With selection=train the run begins with full fine-tuning and leaves a whole model: the moved
    base with the blocks added, and the blocks beside it. Adam's betas are (0.9, 0.95) as released.
    """

    name = "smt"
    kind: Kind = "sparse"
    settings_type = SmtSettings
    size_setting = "attention_ratio"
    tuner_module = "gossamer.methods.smt.model"
    dense_because = "it multiplies by weights of which blocks learn"

    def __init__(self, settings: SmtSettings) -> None:
        super().__init__(settings)
        if settings.lora_rank is not None:
            self.size_setting = "lora_rank"

    @classmethod
    def with_settings(cls, settings: SmtSettings) -> "Smt":
        return (SmtWholeRun if settings.selection == "train" else Smt)(settings)

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return probed_config(model, self.settings, context)

    def optimizer(self, model: Any, *, learning_rate: float, weight_decay: float) -> Any:
        return adam(model, learning_rate=learning_rate, weight_decay=weight_decay)


class SmtWholeRun(Smt):
    """SMT as published, with selection=train: full fine-tuning first, then the chosen blocks.

    The base moves, so such a run leaves a whole model: the moved base with the blocks added, and
    the blocks beside it.
    """

    kind = "model"
    trains_base = True
    one_process_because = "with selection=train it sums the gradients of one process"

    _sums: RunningSums

    def check(self, context: MethodContext) -> None:
        super().check(context)
        steps = self.settings.warmup_steps
        if steps >= context.total_steps:
            raise SettingError(
                f"warmup_steps = {steps} leaves none of the {context.total_steps} steps of the run "
                "to train blocks; lower it or train longer"
            )

    def stages(self, context: MethodContext) -> list[Stage]:
        steps, rate = self.settings.warmup_steps, self.settings.warmup_learning_rate
        return [
            Stage(name="warm-up", steps=steps, learning_rate=rate),
            Stage(name="blocks", steps=context.total_steps - steps),
        ]

    def to_be_timed(self, steps: int) -> dict[str, Any]:
        return {"warmup_steps": min(self.settings.warmup_steps, steps // 2)}

    def prepare(self, model: Any, context: MethodContext) -> Any:
        model, self._sums = start_warm_up(model, self.settings)
        return model

    def enter_stage(self, model: Any, index: int, context: MethodContext) -> Any:
        return start_blocks(model, self._sums, self.settings)

    def resume_stage(self, model: Any, index: int, folder: Path, context: MethodContext) -> Any:
        if index == 1:
            model = blocks_as_saved(model, self._sums, folder)
        self.restore(model, folder)
        return model

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        save_state(model, self._sums, folder)

    def restore(self, model: Any, folder: Path) -> None:
        restore_state(model, self._sums, folder)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        export_model(model, folder, context)
