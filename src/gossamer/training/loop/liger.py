"""Liger's fused Triton kernels in a run: the base model's norms and gated MLPs, on a GPU."""

import sys
from pathlib import Path
from typing import Any

from trl.import_utils import LIGER_KERNEL_MIN_VERSION, is_liger_kernel_available

from gossamer.basemodel.load import load_config
from gossamer.errors import MissingExtraError, SettingError, TrainingError, UnsupportedModelError
from gossamer.sparsity.plan import SparsityPlan

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


def check_liger(device: str, base_folder: Path) -> None:
    """Raise `SettingError`, `MissingExtraError` or `UnsupportedModelError` if a run on the torch
    device `device` cannot use Liger's kernels for the base model in `base_folder`."""
    if not device.startswith("cuda"):
        raise SettingError(
            f"liger_kernel=true needs a GPU, for Liger's kernels are Triton's, and this run is on "
            f"'{device}'; leave liger_kernel out"
        )
    if not is_liger_kernel_available():
        needs = f"Linux and liger-kernel {LIGER_KERNEL_MIN_VERSION} or newer"
        raise MissingExtraError.of("liger_kernel=true", needs, "liger")
    config = load_config(base_folder).get_text_config()
    if config.model_type not in MODEL_TYPES or config.hidden_act not in ("silu", "swish"):
        raise UnsupportedModelError(
            f"liger_kernel=true: models of type '{config.model_type}' with activation "
            f"'{getattr(config, 'hidden_act', None)}' are not supported; those of "
            f"{', '.join(MODEL_TYPES)} with silu are; leave liger_kernel out"
        )


def liger_kernels(plan: SparsityPlan | None) -> dict[str, bool]:
    """Which of Liger's kernels a run uses, by Liger's names.

    Rotary positions are left out because Liger replaces their function for all models of the
    process; losses because TRL's own, fused with the head, scores only tokens with a label. Under
    a plan that slices MLPs those compute by slices, and Liger would replace the same function.
    """
    return {
        "rope": False,
        "rms_norm": True,
        "swiglu": plan is None or not plan.mlp,
        "cross_entropy": False,
        "fused_linear_cross_entropy": False,
    }


def use_liger(model: Any, kernels: dict[str, bool]) -> None:
    """Let the layers of `model`, and of no other model, compute by Liger's `kernels`.

    `model` is one of transformers, before adapters wrap its layers.
    Raises `TrainingError` if Liger changes none of them.
    """
    from transformers.integrations.liger import apply_liger_kernel

    family = vars(sys.modules[type(model).__module__])
    before, forwards = dict(family), _forwards(model)
    try:
        apply_liger_kernel(model, kernels)
    finally:
        # Liger also replaces the classes from which later models of the family are made.
        family.update(before)
    if _forwards(model) == forwards:
        raise TrainingError(
            f"liger_kernel=true: the installed liger-kernel has no kernels for a "
            f"{type(model).__name__}; leave liger_kernel out"
        )


def _forwards(model: Any) -> list[Any]:
    """The forward functions of modules that are not their class's own."""
    return [vars(module).get("forward") for module in model.modules()]
