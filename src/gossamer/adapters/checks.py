"""Refuse, by name, what plain low-rank factors cannot express.

Every field of PEFT 0.21's LoraConfig is sorted here: what shapes the numbers and is read elsewhere,
what only matters while training, and what changes the result in a way this code does not compute.
"""

from typing import Any

from gossamer.adapters.config import LoraSpec
from gossamer.errors import UnsupportedAdapterError

# field -> what it does; a value that is not empty, false or "none" is refused.
_REFUSED = {
    "bias": "trains bias vectors",
    "lora_bias": "adds a bias to B",
    "modules_to_save": "replaces whole layers",
    "trainable_token_indices": "trains embeddings of single tokens",
    "layer_replication": "repeats layers of the base model",
    "target_parameters": "adapts parameters that are not linear layers",
    "alora_invocation_tokens": "starts in the middle of a prompt (activated LoRA)",
    "use_qalora": "pools the inputs (QA-LoRA)",
    "use_bdlora": "has block-diagonal factors (BD-LoRA)",
    "arrow_config": "routes between several adapters (Arrow)",
    "monteclora_config": "carries a sampler (MonteCLoRA)",
    "kasa_config": "truncates the base weights and adds a diagonal (KaSA)",
    "fan_in_fan_out": "expects transposed base weights",
    "megatron_config": "is for Megatron's parallel layers",
}

# Start values that leave the base weights alone. The others (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ)
# subtract something from the base, without which the factors mean nothing.
_HARMLESS_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")

_KNOWN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "lora_ga_config", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
    "task_type", "use_dora", "use_rslora", "velora_config",
}  # fmt: skip


def require_low_rank(spec: LoraSpec, name: str, *, allow_dora: bool = False) -> None:
    """Raise `UnsupportedAdapterError` unless factors and scales say all there is to say.

    With `allow_dora`, the magnitude vectors of DoRA (arXiv:2402.09353) are allowed too.
    """
    if spec.use_dora and not allow_dora:
        raise UnsupportedAdapterError(
            f"adapter {name}: DoRA adapters cannot be served yet; merge it with "
            "`gossamer adapters merge` and serve the result"
        )
    for field, effect in _REFUSED.items():
        value = spec.raw.get(field)
        if _is_set(value) and value != "none":
            raise UnsupportedAdapterError(
                f"adapter {name}: {field} = {_short(value)} {effect}, which is not supported; "
                "merge it into its base model with PEFT instead"
            )
    _require_harmless_init(spec, name)
    _refuse_unknown_switches(spec, name)


def is_harmless_init(init: Any) -> bool:
    """Whether a value of `init_lora_weights` leaves the base weights alone."""
    return (init.lower() if isinstance(init, str) else init) in _HARMLESS_INITS


def _require_harmless_init(spec: LoraSpec, name: str) -> None:
    init = spec.raw.get("init_lora_weights", True)
    if not is_harmless_init(init):
        raise UnsupportedAdapterError(
            f"adapter {name}: init_lora_weights = {_short(init)} also changes the base weights, "
            "so these factors do not fit the original base; save it again with PEFT's "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )


def _refuse_unknown_switches(spec: LoraSpec, name: str) -> None:
    """A newer PEFT may know variants that this code does not; numbers and names alone are idle."""
    for field, value in spec.raw.items():
        if field in _KNOWN or field in _REFUSED or field.startswith("gossamer_"):
            continue
        if _is_set(value) and isinstance(value, bool | list | dict):
            raise UnsupportedAdapterError(
                f"adapter {name}: unknown field {field} = {_short(value)} in its config may "
                "change the result; remove the field if it does not"
            )


def _is_set(value: Any) -> bool:
    return value is not None and value is not False and value not in ("", [], {})


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
