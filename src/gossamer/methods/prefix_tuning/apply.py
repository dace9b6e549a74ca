"""Prefix tuning through PEFT, started from what the model computes for real tokens."""

from typing import Any

import torch
from peft import PrefixTuningConfig, TaskType

from gossamer.methods.low_rank_result import ADAPTER


def prefix_config(tokens: int, projection: int | None) -> Any:
    """PEFT's config; it finds layers, heads and their width in the model."""
    return PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=tokens,
        prefix_projection=projection is not None,
        encoder_hidden_size=projection,
    )


def start_from(model: Any, ids: torch.Tensor) -> None:
    """Set the prefix of a `PeftModel` to the keys and values of the tokens `ids` [tokens].

    The paper's section 7.4 found activations of real words a far better start than random numbers.
    PEFT keeps [tokens, 2 * layers * heads * head_dim]: of each layer the keys, then the values.
    """
    with torch.no_grad():
        cache = model.get_base_model()(input_ids=ids[None], use_cache=True).past_key_values
        pairs = [tensor[0] for layer in cache.layers for tensor in (layer.keys, layer.values)]
        # [2 * layers, heads, tokens, head_dim]
        prefix = torch.stack(pairs).permute(2, 0, 1, 3).reshape(len(ids), -1)
        model.prompt_encoder[ADAPTER].embedding.weight.copy_(prefix)
