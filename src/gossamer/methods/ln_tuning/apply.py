"""From names of normalisation layers to PEFT's `LNTuningConfig`."""

from collections.abc import Sequence
from typing import Any

from peft import LNTuningConfig, TaskType

from gossamer.errors import SettingError
from gossamer.methods.model_parts import norm_paths


def ln_config(model: Any, wanted: Sequence[str] | None) -> Any:
    """The config for `model`; raises `SettingError` if a name is no normalisation layer of it."""
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
