"""IA3: keys, values and the MLP's inner activations rescaled, nothing else (arXiv 2205.05638)."""

from collections.abc import Sequence
from typing import Any

from peft import IA3Config, TaskType

from gossamer.errors import SettingError
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.common.targets import select_targets
from gossamer.methods.settings import Ia3Settings


def ia3_config(
    model: Any, wanted: str | Sequence[str], feedforward: Sequence[str], layers: list[int] | None
) -> Any:
    """Make PEFT's config for `model`; raises `SettingError` where the settings do not fit."""
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


class Ia3(PeftMethod[Ia3Settings]):
    """y = l * (W x), and y = W (l * x) for feed-forward layers; the vectors l start at one."""

    name = "ia3"
    kind = "gain"
    settings_type = Ia3Settings

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        settings = self.settings
        return ia3_config(
            model, settings.target_modules, settings.feedforward_modules, settings.layers
        )
