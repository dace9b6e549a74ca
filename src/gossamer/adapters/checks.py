"""Refuse, by name, what plain low-rank factors cannot express.

Every field of PEFT 0.21's LoraConfig is sorted here: what shapes the numbers and is read elsewhere,
what only matters while training, and what changes the result in a way this code does not compute.
"""

from typing import Any

from gossamer.adapters.config import LoraSpec
from gossamer.adapters.fields import refuse_fields, short
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
    "megatron_config": "is for Megatron's parallel layers",
}

# Start values that leave the base weights alone. The others (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ)
# subtract something from the base, without which the factors mean nothing.
_HARMLESS_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")

# `fan_in_fan_out` says that the base keeps weights transposed (GPT-2): it matters for merging, and
# PEFT sets it by the layer whatever is said.
_KNOWN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "lora_ga_config", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
    "task_type", "use_dora", "use_rslora", "velora_config",
}  # fmt: skip


TRAINED_PARTS = ("bias", "lora_bias", "modules_to_save", "trainable_token_indices")
"""Fields of LoRA's config that say that more was trained than factors."""


def require_low_rank(
    spec: LoraSpec, name: str, *, allow_dora: bool = False, allow_parts: bool = False
) -> None:
    """Raise `UnsupportedAdapterError` unless factors and scales say all there is to say.

    With `allow_dora`, the magnitude vectors of DoRA (arXiv:2402.09353) are allowed too; with
    `allow_parts`, what `TRAINED_PARTS` tell of.
    """
    if spec.use_dora and not allow_dora:
        raise UnsupportedAdapterError(
            f"adapter {name}: a DoRA adapter (use_dora = True) is more than low-rank factors; "
            "read it with load_adapter"
        )
    refused, known = _REFUSED, _KNOWN
    if allow_parts:
        refused = {
            field: effect for field, effect in _REFUSED.items() if field not in TRAINED_PARTS
        }
        known = {*_KNOWN, *TRAINED_PARTS}
    refuse_fields(name, spec.raw, refused, known)
    _require_harmless_init(spec, name)


def is_harmless_init(init: Any) -> bool:
    """Tell whether a value of `init_lora_weights` leaves the base weights alone."""
    return (init.lower() if isinstance(init, str) else init) in _HARMLESS_INITS


def _require_harmless_init(spec: LoraSpec, name: str) -> None:
    init = spec.raw.get("init_lora_weights", True)
    if not is_harmless_init(init):
        raise UnsupportedAdapterError(
            f"adapter {name}: init_lora_weights = {short(init)} also changes the base weights, "
            "so these factors do not fit the original base; save it again with PEFT's "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
