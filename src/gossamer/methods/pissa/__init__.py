"""PiSSA: LoRA that starts from the largest singular values of the weight (arXiv 2404.02948)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.methods.lora.config import LoraSettings, PositiveFloat, PositiveInt
from gossamer.methods.method import MethodContext
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register

if TYPE_CHECKING:
    from gossamer.methods.pissa.apply import Start


class PissaSettings(LoraSettings):
    """Settings of `pissa`."""

    alpha: PositiveFloat = 16.0
    """Strength: the factors' product is scaled by alpha / rank, and they start smaller by as much.
    The default gives 1, the paper's choice."""

    fast_svd: PositiveInt | None = None
    """Iterations of a randomised singular value decomposition, much faster on large matrices;
    unset: the exact one."""


@register
class Pissa(PeftMethod[PissaSettings]):
    """y = W_res x + (alpha / rank) B A x with B, A from the top of W's SVD and W_res the rest.

    The start computes what the base computes, but the base is changed to the residual. The result
    of a run is a plain LoRA adapter of the untouched base, of twice the rank:
    scale * (B A - B0 A0). Learning rate: 2e-5 is the released script's for LLaMA-2-7B; the factors
    start large, so LoRA's rate is often too high.
    """

    name = "pissa"
    summary = "LoRA started from the weight's largest singular values; often learns faster"
    kind = "low-rank"
    settings_type = PissaSettings
    learning_rate = 2e-5
    size_setting = "rank"

    _start: "Start"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.pissa.apply import pissa_config

        return pissa_config(model, self.settings, self.name, fast_svd=self.settings.fast_svd)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.pissa.apply import Start

        model = super().prepare(model, context)
        self._start = Start(model, context.base_folder)
        return model

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        super().save(model, folder, context)
        self._start.write(folder)

    def restore(self, model: Any, folder: Path) -> None:
        super().restore(model, folder)
        self._start.restore(model, folder)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        from gossamer.methods.low_rank_result import write_factors

        write_factors(folder, self._start.factors(model), context)


class FederaSettings(PissaSettings):
    """Settings of `federa`."""


@register
class Federa(Pissa):
    """FeDeRA's initialisation (arXiv 2404.18848), which is PiSSA's: one method under two names.

    FeDeRA is this start in federated tuning: the server decomposes once and sends the factors.
    Learning rate: that of `pissa`.
    """

    name = "federa"
    summary = "the initialisation of federated FeDeRA; the same as pissa"
    settings_type = FederaSettings
