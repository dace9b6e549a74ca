"""Models whose layers have widths of their own, as pruning leaves them: their configs and classes.

A pruned model is one of its family, `pruned_llama` of `llama`, but for two lists in its config that
give each layer's key/value heads and MLP channels. The family's own code computes it. Where all
layers are alike no class of ours is needed, and `config_of_widths` makes the family's config.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from gossamer.errors import UnsupportedModelError

MARK = "pruned_"
"""What the `model_type` of a pruned model begins with; the rest is its family's."""
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Families whose layers can have widths of their own: q, k, v, o and gate, up, down."""
_KV_HEADS, _CHANNELS = "layer_key_value_heads", "layer_intermediate_sizes"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWidths:
    """The widths of each layer of a model, from the input on."""

    kv_heads: tuple[int, ...]
    """Key/value heads; each has as many query heads in all layers."""
    channels: tuple[int, ...]
    """Channels of the MLP."""

    @property
    def are_alike(self) -> bool:
        """Whether all layers have the same widths."""
        return len(set(self.kv_heads)) == len(set(self.channels)) == 1


def family_of(model_type: str) -> str:
    """Return the family of a model type: "llama" for "pruned_llama", others as they are."""
    return model_type.removeprefix(MARK)


def is_pruned(config: Any) -> bool:
    """Whether the layers of a model of this transformers config have widths of their own."""
    return str(getattr(config, "model_type", "")).startswith(MARK)


def widths_of(config: Any) -> LayerWidths:
    """Return the widths of each layer of a model of this transformers config."""
    layers = config.num_hidden_layers
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return LayerWidths(
        kv_heads=tuple(getattr(config, _KV_HEADS, None) or [heads] * layers),
        channels=tuple(getattr(config, _CHANNELS, None) or [config.intermediate_size] * layers),
    )


def has_uneven_heads(config: Any) -> bool:
    """Whether some layers have other numbers of key/value heads than others."""
    return is_pruned(config) and len(set(widths_of(config).kv_heads)) > 1


def config_of_widths(config: Any, widths: LayerWidths) -> Any:
    """Make the config of a model like that of `config`, pruned or not, with other widths.

    Where all layers are alike it is the family's own, which any program loads; but Llama's takes no
    number of heads that does not divide the hidden size, and then it is ours.
    """
    family = family_of(config.model_type)
    fields = config.to_dict()
    for name in ("model_type", "architectures", _KV_HEADS, _CHANNELS, "transformers_version"):
        fields.pop(name, None)
    heads = max(widths.kv_heads)
    group = config.num_attention_heads // max(widths_of(config).kv_heads)
    fields |= {
        "head_dim": getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads,
        "num_key_value_heads": heads,
        "num_attention_heads": heads * group,
        "intermediate_size": max(widths.channels),
    }
    if widths.are_alike and config.hidden_size % (heads * group) == 0:
        from transformers import CONFIG_MAPPING

        return CONFIG_MAPPING[family](**fields)
    lists = {_KV_HEADS: list(widths.kv_heads), _CHANNELS: list(widths.channels)}
    return register(MARK + family)(**fields, **lists)


def register_all() -> None:
    """Make transformers' Auto classes know the pruned models of all families."""
    for family in FAMILIES:
        register(MARK + family)


@cache
def register(model_type: str) -> Any:
    """Make transformers' Auto classes know a pruned model type; returns the class of its config.

    Raises `UnsupportedModelError` if there is no such family.
    """
    from transformers import (
        CONFIG_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
    )

    family = family_of(model_type)
    if family not in FAMILIES:
        raise UnsupportedModelError(
            f"there are no pruned models of architecture '{family}'; there are of "
            f"{', '.join(FAMILIES)}"
        )
    family_config: Any = CONFIG_MAPPING[family]
    family_model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[family_config]
    config_class = _config_class(family_config)
    AutoConfig.register(model_type, config_class)
    AutoModelForCausalLM.register(config_class, _model_class(family_model, config_class))
    return config_class


def _config_class(family_config: Any) -> Any:
    from huggingface_hub.dataclasses import strict

    # Judges by the class's own validators; saving would judge by the family's otherwise.
    @strict
    class PrunedConfig(family_config):
        """A family's config with the widths of each layer."""

        model_type = MARK + family_config.model_type
        # There is no pruned model without lists; older versions of transformers would make one to
        # find out what to store.
        has_no_defaults_at_init = True

        def __post_init__(self, **fields: Any) -> None:
            super().__post_init__(**fields)
            for name in (_KV_HEADS, _CHANNELS):
                _check_list(name, getattr(self, name, None), self.num_hidden_layers)

        def validate_architecture(self) -> None:
            """Allow any number of heads: their width is a field of its own."""

    return _named(PrunedConfig, f"Pruned{family_config.__name__}")


def _check_list(name: str, values: Any, layers: int) -> None:
    is_fit = isinstance(values, Sequence) and len(values) == layers
    if not is_fit or any(not isinstance(n, int) or n < 1 for n in values):
        raise ValueError(f"{name} must give a whole number from 1 for each of the {layers} layers")


def _model_class(family_model: Any, pruned_config: Any) -> Any:
    class PrunedForCausalLM(family_model):
        """A family's model whose layers have the widths of the config's lists."""

        config_class = pruned_config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            _set_widths(self.model.layers, config)
            self.post_init()

        @classmethod
        def _can_set_attn_implementation(cls) -> bool:
            # Transformers looks into the file of the class, which for ours is this one.
            return bool(family_model._can_set_attn_implementation())

    return _named(PrunedForCausalLM, f"Pruned{family_model.__name__}")


def _set_widths(layers: Any, config: Any) -> None:
    """Build again, by the family's own class, each layer that is not as wide as the widest."""
    widths = widths_of(config)
    group = config.num_attention_heads // config.num_key_value_heads
    for index, (heads, channels) in enumerate(zip(widths.kv_heads, widths.channels, strict=True)):
        if (heads, channels) == (config.num_key_value_heads, config.intermediate_size):
            continue
        own = copy.copy(config)
        own.num_key_value_heads, own.num_attention_heads = heads, heads * group
        own.intermediate_size = channels
        layer = type(layers[index])(own, index)
        for module in layer.modules():
            if getattr(module, "config", None) is own:
                # The model's own, which is told of another way to attend.
                module.config = config
        layers[index] = layer


def _named(made: Any, name: str) -> Any:
    made.__name__ = made.__qualname__ = name
    return made
