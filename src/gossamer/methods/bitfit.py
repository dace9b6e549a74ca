"""BitFit: only the biases of the linear layers learn (arXiv 2106.10199)."""

from collections.abc import Sequence
from typing import Any

from peft import BeftConfig, TaskType

from gossamer.errors import SettingError
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.common.targets import linear_paths, select_targets
from gossamer.methods.settings import BitfitSettings


def bias_config(model: Any, wanted: str | Sequence[str]) -> Any:
    """Make PEFT's config; raises `SettingError` if none of the layers has a bias."""
    names = select_targets(model, wanted, None)
    modules = dict(model.named_modules())
    paths = [
        path
        for path in linear_paths(model)
        if any(path == name or path.endswith(f".{name}") for name in names)
        and getattr(modules[path], "bias", None) is not None
    ]
    if not paths:
        raise SettingError(
            f"method 'bitfit': no layer among {', '.join(names)} of this "
            f"{model.config.model_type} model has a bias; use method 'ln_tuning', 'ia3' or 'lora'"
        )
    return BeftConfig(task_type=TaskType.CAUSAL_LM, target_modules=sorted(paths))


class Bitfit(PeftMethod[BitfitSettings]):
    """y = W x + b + d, where d starts at zero and learns. Models without biases are refused."""

    name = "bitfit"
    kind = "vector"
    settings_type = BitfitSettings

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return bias_config(model, self.settings.target_modules)
