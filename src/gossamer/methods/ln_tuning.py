"""Layer-norm tuning: only the normalisation layers' weights learn (arXiv 2312.11420)."""

import warnings
from collections.abc import Sequence
from typing import Any

from peft import LNTuningConfig, TaskType

from gossamer.errors import SettingError
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.common.targets import learn_in_float32, norm_paths
from gossamer.methods.settings import LnTuningSettings


def ln_config(model: Any, wanted: Sequence[str] | None) -> Any:
    """Make PEFT's config; raises `SettingError` if a name is no normalisation layer of `model`."""
    paths = norm_paths(model)
    known = sorted({path.rsplit(".", 1)[-1] for path in paths})
    if wanted is not None and not wanted:
        raise SettingError("norms is empty; leave it out to train all of them")
    for name in wanted or []:
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            raise SettingError(f"norms: '{name}' is none of the model's: {', '.join(known)}")
    return LNTuningConfig(
        task_type=TaskType.CAUSAL_LM, target_modules=known if wanted is None else list(wanted)
    )


class LnTuning(PeftMethod[LnTuningSettings]):
    """y = g * x / rms(x) (and + b where the norm has one): g and b learn, the rest is frozen."""

    name = "ln_tuning"
    kind = "vector"
    settings_type = LnTuningSettings

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return ln_config(model, self.settings.norms)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        with warnings.catch_warnings():
            # PEFT asks norms for the sizes that only linear layers have.
            warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
            model = super().prepare(model, context)
        return learn_in_float32(model)
