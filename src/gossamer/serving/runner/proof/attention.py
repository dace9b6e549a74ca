"""What the untouched model's attention gives for loud queries, keys and values, layer by layer.

Logits bear the rounding of all layers, in bfloat16 some hundredths of the largest, behind which a
cap of the scores or a sink can hide. One attention on its own is rounded once. And random queries
that are loud reach scores at which a cap, a sink or a scale tells, which those of a model need not
do on a short text.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import UnsupportedModelError

RECORDED = "gossamer_recorded"
SPREAD = 2.0
"""The deviation of the scores of a token."""
SHIFT = 20.0
"""What is added to all scores of each second token: a cap of the scores then moves its shares, and
those of the others are moved by a sink, which tells beside small scores only."""


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of attention for a text of T tokens, and what the model's own code gives."""

    module: Any
    query: Tensor
    """[1, heads, T, head_dim], in the model's number format, as are the others."""
    key: Tensor
    """[1, kv_heads, T, head_dim]."""
    value: Tensor
    """[1, kv_heads, T, head_dim]."""
    options: dict[str, Any]
    """What else the layer tells attention."""
    output: Tensor
    """float32 [T, heads, head_dim]."""

    def piece(self, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of the tokens from `first` to before `last`."""
        query, key, value = (each[:, :, first:last] for each in (self.query, self.key, self.value))
        return query, key, value


@contextmanager
def recorded(model: Any) -> Iterator[list[AttentionCall]]:
    """Collect meanwhile the calls of attention, each made once more with loud inputs.

    The model, whose layers are transformers' own, computes with its own plain attention.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(RECORDED, _record)
    AttentionMaskInterface.register(RECORDED, eager_mask)
    calls: list[AttentionCall] = []
    before = model.config._attn_implementation
    layers = [module for module in model.modules() if hasattr(module, "layer_idx")]
    model.set_attn_implementation(RECORDED)
    for module in layers:
        module.gossamer_calls = calls
    try:
        yield calls
    finally:
        for module in layers:
            del module.gossamer_calls
        model.set_attn_implementation(before)


def _record(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> Any:
    """Attend as the model's own code does, and once more with loud inputs in float32."""
    plain = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if plain is None:
        raise UnsupportedModelError("its attention has no plain form to be compared with")
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    mask = attention_mask.float() if isinstance(attention_mask, Tensor) else attention_mask
    q, k, v = _loud(query, key, value, scale, module.layer_idx)
    output = plain(module, q.float(), k.float(), v.float(), mask, **options)[0]
    module.gossamer_calls.append(AttentionCall(module, q, k, v, dict(options), output[0]))
    return plain(module, query, key, value, attention_mask, **options)


def _loud(
    query: Tensor, key: Tensor, value: Tensor, scale: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Random inputs of these shapes, whose scores have the spread and the shift."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(each.shape, generator=generator) for each in (query, key, value))
    q *= SPREAD / (scale * (query.shape[-1] - 1) ** 0.5)
    # All keys have the same number at one place, and what queries have there shifts their scores.
    k[..., 0] = 4.0
    q[..., ::2, 0] = 0.0
    q[..., 1::2, 0] = SHIFT / (4.0 * scale)
    return q.to(query), k.to(key), v.to(value)
