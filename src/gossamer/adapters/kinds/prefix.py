"""Prefixes: virtual tokens in front of the prompt, as embeddings or as keys and values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from gossamer.adapters.base_shape import require_shape
from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields, short, whole_number
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.reading.safetensors_header import Header, Place
from gossamer.adapters.source import AdapterSource
from gossamer.adapters.weights import require_number_format
from gossamer.errors import AdapterFormatError, BaseMismatchError, UnsupportedAdapterError

KEY = "prompt_embeddings"
_FLOAT = 4
"""Bytes of a number in the pool."""
# What the prompt encoder was while training; its output is what is stored.
_FIELDS = {
    *COMMON, "encoder_dropout", "encoder_hidden_size", "encoder_num_layers",
    "encoder_reparameterization_type", "init_weights", "num_attention_heads", "num_layers",
    "num_transformer_submodules", "num_virtual_tokens", "prefix_projection", "prompt_tuning_init",
    "prompt_tuning_init_text", "token_dim", "tokenizer_kwargs", "tokenizer_name_or_path",
}  # fmt: skip


@dataclass(frozen=True)
class PrefixAdapter(Adapter):
    """A checked prefix in memory: exactly one of the two tensors is there."""

    kind: ClassVar[str] = "prefix"
    embeddings: Tensor | None
    """[tokens, hidden]: virtual tokens that the base model reads first (prompt tuning
    arXiv:2104.08691, P-tuning arXiv:2103.10385)."""
    keys_values: Tensor | None
    """[tokens, layers, 2, kv heads, head width]: what attention finds in front (prefix tuning
    arXiv:2101.00190); keys as after the rotary embedding."""

    @property
    def num_virtual_tokens(self) -> int:
        """Positions that it takes in front of the prompt."""
        tensor = self.embeddings if self.embeddings is not None else self.keys_values
        assert tensor is not None
        return tensor.shape[0]


def load_prefix(source: AdapterSource) -> PrefixAdapter:
    """Read and check a PROMPT_TUNING, P_TUNING or PREFIX_TUNING adapter.

    Raises as `load_low_rank`.
    """
    name, config, base = source.name, source.config, source.base
    refuse_fields(name, config, REFUSED, _FIELDS)
    if config.get("num_transformer_submodules") not in (None, 1):
        raise UnsupportedAdapterError(
            f"adapter {name}: num_transformer_submodules = "
            f"{short(config['num_transformer_submodules'])} is for models with an encoder and a "
            "decoder, which cannot be served"
        )
    with source.open_weights() as stored:
        place = _place(name, config, stored.header)
        shape = _given_shape(source, place)
        if shape is None and base is not None:
            wanted = (place.shape[0], base.hidden_size)
            require_shape(name, "the virtual tokens", place.shape, wanted)
        if base is not None:
            # Keys and values of each virtual token, whatever it is made of.
            floats = 2 * base.total_kv_heads * base.head_dim
            source.budget.require_room(name, place.shape[0] * floats * _FLOAT)
        weights = source.read_finite(stored)
    tensor = weights.tensor(place)
    return PrefixAdapter(
        name=name,
        digest=source.digest(weights),
        embeddings=tensor if shape is None else None,
        keys_values=tensor.view(shape) if shape is not None else None,
    )


def _place(name: str, config: Mapping[str, Any], header: Header) -> Place:
    """Where the prefix lies: the only tensor, with a row for each virtual token."""
    others = sorted(set(header.places) - {KEY})
    if others or KEY not in header.places:
        what = f"holds the tensor {others[0]}" if others else f"has no tensor {KEY}"
        raise UnsupportedAdapterError(f"adapter {name} {what}, which is not a plain prefix")
    place = header.places[KEY]
    require_number_format(name, KEY, place.dtype)
    count = whole_number(name, config, "num_virtual_tokens", least=1)
    if len(place.shape) != 2 or place.shape[0] != count:
        raise AdapterFormatError(
            f"adapter {name}: {KEY} has shape {list(place.shape)}, but its config says {count} "
            "virtual tokens"
        )
    return place


def _given_shape(source: AdapterSource, place: Place) -> tuple[int, int, int, int, int] | None:
    """[tokens, layers, 2, kv heads, head width] of keys and values; None for embeddings."""
    if source.peft_type != "PREFIX_TUNING":
        return None
    name, base = source.name, source.base
    layers = whole_number(name, source.config, "num_layers", least=1)
    heads = whole_number(name, source.config, "num_attention_heads", least=1)
    tokens, width = place.shape
    head_dim = width // (2 * layers * heads)
    if width != 2 * layers * heads * head_dim:
        raise AdapterFormatError(
            f"adapter {name}: {width} numbers for each virtual token do not divide into keys and "
            f"values of {layers} layers and {heads} heads"
        )
    if base is not None and len(set(base.layer_kv_heads)) > 1:
        raise BaseMismatchError(
            f"adapter {name} has keys and values of {heads} heads for every layer, and the layers "
            "of this pruned base model have unlike numbers of them; use the base it was trained on"
        )
    if base is not None:
        wanted = (base.num_layers, base.num_kv_heads, base.head_dim)
        require_shape(name, "the prefix (layers, heads, width)", (layers, heads, head_dim), wanted)
    return tokens, layers, 2, heads, head_dim
