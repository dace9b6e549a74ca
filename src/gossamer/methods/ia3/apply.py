"""From the settings of IA3 to PEFT's `IA3Config`."""

from collections.abc import Sequence
from typing import Any

from peft import IA3Config, TaskType

from gossamer.errors import SettingError
from gossamer.methods.model_parts import select_targets


def ia3_config(
    model: Any, wanted: str | Sequence[str], feedforward: Sequence[str], layers: list[int] | None
) -> Any:
    """The config for `model`; raises `SettingError` where the settings do not fit."""
    targets = select_targets(model, wanted, layers)
    inputs = [path for path in targets if any(_ends(path, name) for name in feedforward)]
    for name in feedforward:
        if not any(_ends(path, name) for path in targets):
            raise SettingError(
                f"feedforward_modules: '{name}' is none of the target_modules: {', '.join(targets)}"
            )
    return IA3Config(
        task_type=TaskType.CAUSAL_LM, target_modules=targets, feedforward_modules=inputs
    )


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")
