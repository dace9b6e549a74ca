"""BitFit through PEFT's BEFT tuner, held to the biases that the model has."""

from collections.abc import Sequence
from typing import Any

from peft import BeftConfig, TaskType

from gossamer.errors import SettingError
from gossamer.methods.model_parts import select_targets
from gossamer.methods.targets import linear_paths


def bias_config(model: Any, wanted: str | Sequence[str]) -> Any:
    """PEFT's config; raises `SettingError` if none of the layers has a bias."""
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
