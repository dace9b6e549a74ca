"""Prefixes: virtual tokens in front of the prompt, as embeddings or as keys and values."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from gossamer.adapters.base_fit import require_same_base, require_shape
from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.config import read_raw
from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields, whole_number
from gossamer.adapters.identity import digest_of
from gossamer.adapters.tensor_names import require_number_format
from gossamer.adapters.weights import read_weights, require_finite
from gossamer.errors import AdapterFormatError, UnsupportedAdapterError

KEY = "prompt_embeddings"
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
    folder: Path, *, base: BaseShape | None = None, base_fingerprint: str | None = None
) -> PrefixAdapter:
    """Read and check the PROMPT_TUNING, P_TUNING or PREFIX_TUNING adapter in `folder`.

    Raises:
        AdapterNotFoundError, AdapterFormatError, UnsupportedAdapterError, BaseMismatchError: as
            `load_low_rank`.
    """
    raw = read_raw(folder)
    name = folder.name
    refuse_fields(name, raw, REFUSED, _FIELDS)
    if raw.get("num_transformer_submodules") not in (None, 1):
        raise UnsupportedAdapterError(
            f"adapter {name}: num_transformer_submodules = {raw['num_transformer_submodules']} is "
            "for models with an encoder and a decoder, which cannot be served"
        )
    weights = read_weights(folder)
    require_same_base(name, weights.base_fingerprint, base_fingerprint)
    others = sorted(set(weights.tensors) - {KEY})
    if others or KEY not in weights.tensors:
        what = f"holds the tensor {others[0]}" if others else f"has no tensor {KEY}"
        raise UnsupportedAdapterError(f"adapter {name} {what}, which is not a plain prefix")
    tensor = weights.tensors[KEY]
    require_number_format(name, KEY, tensor.dtype)
    require_finite(name, weights)
    count = whole_number(name, raw, "num_virtual_tokens", least=1)
    if tensor.dim() != 2 or tensor.shape[0] != count:
        raise AdapterFormatError(
            f"adapter {name}: {KEY} has shape {list(tensor.shape)}, but its config says {count} "
            "virtual tokens"
        )
    is_given = raw["peft_type"].upper() == "PREFIX_TUNING"
    return PrefixAdapter(
        name=name,
        digest=digest_of(raw, weights),
        embeddings=None if is_given else _embeddings(name, tensor, base),
        keys_values=_keys_values(name, raw, tensor, base) if is_given else None,
    )


def _embeddings(name: str, tensor: Tensor, base: BaseShape | None) -> Tensor:
    if base is not None:
        wanted = (tensor.shape[0], base.hidden_size)
        require_shape(name, "the virtual tokens", tuple(tensor.shape), wanted)
    return tensor


def _keys_values(
    name: str, raw: dict[str, object], tensor: Tensor, base: BaseShape | None
) -> Tensor:
    layers = whole_number(name, raw, "num_layers", least=1)
    heads = whole_number(name, raw, "num_attention_heads", least=1)
    head_dim = tensor.shape[1] // (2 * layers * heads)
    if tensor.shape[1] != 2 * layers * heads * head_dim:
        raise AdapterFormatError(
            f"adapter {name}: {tensor.shape[1]} numbers for each virtual token do not divide into "
            f"keys and values of {layers} layers and {heads} heads"
        )
    if base is not None:
        wanted = (base.num_layers, base.num_kv_heads, base.head_dim)
        require_shape(name, "the prefix (layers, heads, width)", (layers, heads, head_dim), wanted)
    return tensor.view(-1, layers, 2, heads, head_dim)
