"""Prefixes: virtual tokens in front of the prompt, as embeddings or as keys and values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from gossamer.adapters.base_shape import BaseShape, require_same_base, require_shape
from gossamer.adapters.config import read_raw
from gossamer.adapters.digest import digest_of
from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields, short, whole_number
from gossamer.adapters.layout import require_number_format
from gossamer.adapters.reading.budget import UNBOUND, Budget
from gossamer.adapters.reading.safetensors_header import Header, Place
from gossamer.adapters.weights import open_weights, require_finite
from gossamer.errors import AdapterFormatError, UnsupportedAdapterError

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
class PrefixAdapter:
    """A checked adapter in memory: exactly one of the two tensors is there."""

    kind: ClassVar[str] = "prefix"
    max_rank: ClassVar[None] = None
    name: str
    digest: str
    embeddings: Tensor | None
    """[tokens, hidden]: virtual tokens that the base model reads first (prompt tuning
    arXiv:2104.08691, P-tuning arXiv:2103.10385)."""
    keys_values: Tensor | None
    """[tokens, layers, 2, kv heads, head width]: what attention finds in front (prefix tuning
    arXiv:2101.00190); keys as after the rotary embedding."""

    @property
    def num_tokens(self) -> int:
        """Virtual tokens."""
        tensor = self.embeddings if self.embeddings is not None else self.keys_values
        assert tensor is not None
        return tensor.shape[0]


def load_prefix(
    folder: Path,
    *,
    base: BaseShape | None = None,
    base_fingerprint: str | None = None,
    budget: Budget = UNBOUND,
    raw: Mapping[str, Any] | None = None,
) -> PrefixAdapter:
    """Read and check the PROMPT_TUNING, P_TUNING or PREFIX_TUNING adapter in `folder`; arguments
    and errors as `load_low_rank`."""
    raw = read_raw(folder, budget.limits) if raw is None else raw
    name = folder.name
    refuse_fields(name, raw, REFUSED, _FIELDS)
    if raw.get("num_transformer_submodules") not in (None, 1):
        raise UnsupportedAdapterError(
            f"adapter {name}: num_transformer_submodules = "
            f"{short(raw['num_transformer_submodules'])} is for models with an encoder and a "
            "decoder, which cannot be served"
        )
    with open_weights(folder, budget.limits) as stored:
        require_same_base(name, stored.base_fingerprint, base_fingerprint)
        place = _place(name, raw, stored.header)
        shape = _given_shape(name, raw, place, base)
        if shape is None and base is not None:
            wanted = (place.shape[0], base.hidden_size)
            require_shape(name, "the virtual tokens", place.shape, wanted)
        if base is not None:
            # Keys and values of each virtual token, whatever it is made of.
            floats = 2 * base.num_layers * base.num_kv_heads * base.head_dim
            budget.require_room(name, place.shape[0] * floats * _FLOAT)
        weights = stored.read()
    require_finite(name, weights)
    tensor = weights.file.tensor(place)
    return PrefixAdapter(
        name=name,
        digest=digest_of(raw, weights.file),
        embeddings=tensor if shape is None else None,
        keys_values=tensor.view(shape) if shape is not None else None,
    )


def _place(name: str, raw: Mapping[str, Any], header: Header) -> Place:
    """Where the prefix lies: the only tensor, with a row for each virtual token."""
    others = sorted(set(header.places) - {KEY})
    if others or KEY not in header.places:
        what = f"holds the tensor {others[0]}" if others else f"has no tensor {KEY}"
        raise UnsupportedAdapterError(f"adapter {name} {what}, which is not a plain prefix")
    place = header.places[KEY]
    require_number_format(name, KEY, place.dtype)
    count = whole_number(name, raw, "num_virtual_tokens", least=1)
    if len(place.shape) != 2 or place.shape[0] != count:
        raise AdapterFormatError(
            f"adapter {name}: {KEY} has shape {list(place.shape)}, but its config says {count} "
            "virtual tokens"
        )
    return place


def _given_shape(
    name: str, raw: Mapping[str, Any], place: Place, base: BaseShape | None
) -> tuple[int, int, int, int, int] | None:
    """[tokens, layers, 2, kv heads, head width] of keys and values; None for embeddings."""
    if raw["peft_type"].upper() != "PREFIX_TUNING":
        return None
    layers = whole_number(name, raw, "num_layers", least=1)
    heads = whole_number(name, raw, "num_attention_heads", least=1)
    tokens, width = place.shape
    head_dim = width // (2 * layers * heads)
    if width != 2 * layers * heads * head_dim:
        raise AdapterFormatError(
            f"adapter {name}: {width} numbers for each virtual token do not divide into keys and "
            f"values of {layers} layers and {heads} heads"
        )
    if base is not None:
        wanted = (base.num_layers, base.num_kv_heads, base.head_dim)
        require_shape(name, "the prefix (layers, heads, width)", (layers, heads, head_dim), wanted)
    return tokens, layers, 2, heads, head_dim
