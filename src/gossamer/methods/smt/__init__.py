"""SMT, sparse matrix tuning: the blocks of weights with the largest gradients learn, the rest is
frozen (arXiv 2405.15525)."""

from pathlib import Path
from typing import Any

from gossamer.errors import SettingError
from gossamer.methods.method import MethodContext, Stage
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register
from gossamer.methods.smt.config import SmtSettings


@register
class Smt(PeftMethod[SmtSettings]):
    """W' = W + D, where D is zero but in the blocks that a warm-up found to matter.

    With selection=train the run begins with full fine-tuning and leaves a whole model: the moved
    base with the blocks added, and the blocks beside it.

    Learning rate: 1e-4, which the released code uses in its PEFT script and recommends in a
    comment for the steps after the warm-up; the published runs used 9.65e-6. Adam's
    betas are (0.9, 0.95) as released.
    """

    name = "smt"
    summary = "trains the blocks of weights that matter most; computes only their gradients"
    kind = "sparse"
    settings_type = SmtSettings
    learning_rate = 1e-4
    size_setting = "attention_ratio"
    tuner_module = "gossamer.methods.smt.model"
    dense_because = "it multiplies by weights of which blocks learn"

    def __init__(self, settings: SmtSettings) -> None:
        super().__init__(settings)
        self._sums: Any = None
        if settings.selection == "train":
            # These runs move the base and leave a model; others leave an adapter.
            self.kind = "model"  # type: ignore[misc, assignment]
            self.trains_base = True  # type: ignore[misc]

    def check(self, context: MethodContext) -> None:
        super().check(context)
        steps = self.settings.warmup_steps
        if self.settings.selection == "train" and steps >= context.total_steps:
            raise SettingError(
                f"warmup_steps = {steps} leaves none of the {context.total_steps} steps of the run "
                "to train blocks; lower it or train longer"
            )

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.smt.prepare import probed_config

        return probed_config(model, self.settings, context)

    def stages(self, context: MethodContext) -> list[Stage]:
        if self.settings.selection == "probe":
            return super().stages(context)
        steps, rate = self.settings.warmup_steps, self.settings.warmup_learning_rate
        return [
            Stage(name="warm-up", steps=steps, learning_rate=rate),
            Stage(name="blocks", steps=context.total_steps - steps),
        ]

    def prepare(self, model: Any, context: MethodContext) -> Any:
        if self.settings.selection == "probe":
            return super().prepare(model, context)
        from gossamer.methods.smt.train import start_warm_up

        model, self._sums = start_warm_up(model, self.settings)
        return model

    def enter_stage(self, model: Any, index: int, context: MethodContext) -> Any:
        from gossamer.methods.smt.train import start_blocks

        return start_blocks(model, self._sums, self.settings)

    def resume_stage(self, model: Any, index: int, folder: Path, context: MethodContext) -> Any:
        if self.settings.selection == "train" and index == 1:
            from gossamer.methods.smt.train import blocks_as_saved

            model = blocks_as_saved(model, self._sums, folder)
        self.restore(model, folder)
        return model

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        if self.settings.selection == "probe":
            super().save(model, folder, context)
            return
        from gossamer.methods.smt.train import save_state

        save_state(model, self._sums, folder)

    def restore(self, model: Any, folder: Path) -> None:
        if self.settings.selection == "probe":
            super().restore(model, folder)
            return
        from gossamer.methods.smt.train import restore_state

        restore_state(model, self._sums, folder)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        if self.settings.selection == "probe":
            super().save(model, folder, context)
            return
        from gossamer.methods.smt.train import export_model

        export_model(model, folder, context)

    def optimizer(self, model: Any, *, learning_rate: float, weight_decay: float) -> Any:
        from gossamer.methods.smt.prepare import adam

        return adam(model, learning_rate=learning_rate, weight_decay=weight_decay)
