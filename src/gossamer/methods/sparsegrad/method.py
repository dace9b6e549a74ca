"""SparseGrad: weights learn in a basis in which gradients are sparse (arXiv 2410.07383)."""

from pathlib import Path
from typing import Any

from gossamer.methods.common.method import Kind, Method, MethodContext
from gossamer.methods.common.probe_loss import checkpointed
from gossamer.methods.sparsegrad import export
from gossamer.methods.sparsegrad.model import apply_sparsegrad
from gossamer.methods.sparsegrad.optimizer import SparseGradAdam
from gossamer.methods.sparsegrad.settings import SparseGradSettings


class SparseGrad(Method[SparseGradSettings]):
    """W~ = V^T W U^T learns by the largest entries of its gradient; U and V come from a probe.

    The result is a whole model, its weights in the ordinary basis, or an adapter that approximates
    it (`export`).
    """

    name = "sparsegrad"
    kind: Kind = "model"
    settings_type = SparseGradSettings
    dense_because = "its MLP weights learn, in another basis"
    one_process_because = "it chooses the entries that learn by the gradient of one process"

    def __init__(self, settings: SparseGradSettings) -> None:
        super().__init__(settings)
        if settings.export != "model":
            # Such a run leaves an adapter.
            self.kind = settings.export

    def prepare(self, model: Any, context: MethodContext) -> Any:
        batches = context.probe_batches
        if next(model.parameters()).is_meta:
            return apply_sparsegrad(model, [], self.settings)
        with checkpointed(model, context.gradient_checkpointing):
            return apply_sparsegrad(model, batches(self.settings.probe_batches), self.settings)

    def optimizer(self, model: Any, *, learning_rate: float, weight_decay: float) -> Any:
        return SparseGradAdam(model, learning_rate, weight_decay=weight_decay)

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        export.save_state(model, folder)

    def restore(self, model: Any, folder: Path) -> None:
        export.restore_state(model, folder)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        settings = self.settings
        if settings.export == "model":
            export.export_model(model, folder, context)
        else:
            export.export_adapter(
                model, folder, context, form=settings.export, error=settings.export_error
            )
