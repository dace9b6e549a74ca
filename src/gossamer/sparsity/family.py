"""Says which models can compute sparsely, where their layers are, which channels go together."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import UnsupportedAdapterError, UnsupportedModelError
from gossamer.sparsity.plan import kept


@dataclass(frozen=True, slots=True)
class HeadShape:
    """The layout of attention's channels: heads one after another, `head_dim` channels each."""

    query_heads: int
    key_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads that share a head of keys and values."""
        return self.query_heads // self.key_heads

    @property
    def query_channels(self) -> int:
        return self.query_heads * self.head_dim

    @property
    def key_channels(self) -> int:
        return self.key_heads * self.head_dim


def top_channels(scores: Tensor, share: float) -> Tensor:
    """The `kept(n, share)` channels of [n] `scores` that score highest, ascending."""
    return torch.topk(scores, kept(scores.numel(), share)).indices.sort().values


def partners(channels: Tensor, heads: HeadShape, *, released: bool = False) -> Tensor:
    """Query channels that meet the key (or value) channels `channels` [k]; [group * k], ascending.

    Channel t of key head h meets channel t of the query heads h * group ... h * group + group - 1:
    (h * group + j) * head_dim + t. The published code took channel * group + j instead.
    """
    steps = torch.arange(heads.group, device=channels.device)
    if released:
        return (channels[:, None] * heads.group + steps).reshape(-1)
    head, channel = channels // heads.head_dim, channels % heads.head_dim
    found = (head[:, None] * heads.group + steps) * heads.head_dim + channel[:, None]
    return found.reshape(-1).sort().values


def key_scores(queries: Tensor, keys: Tensor, heads: HeadShape, *, released: bool) -> Tensor:
    """Score per key channel: its norm times the mean norm of its query partners.

    `queries` [query channels] and `keys` [key channels] are norms over tokens. The published code
    averaged the query channels c, c + d_kv, ... instead of the partners.
    """
    if released:
        return queries.view(heads.group, -1).mean(0) * keys
    grouped = queries.view(heads.key_heads, heads.group, heads.head_dim)
    return grouped.mean(1).reshape(-1) * keys


MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer of a model, wrapped by adapters or not."""

    path: str
    attention: nn.Module
    mlp: nn.Module
    heads: HeadShape


def decoder_layers(model: nn.Module) -> list[DecoderLayer]:
    """The decoder layers of `model`, in order.

    Raises `UnsupportedModelError` for other families than `MODEL_TYPES`, other activations than
    SiLU, and other layers than q, k, v, o and gate, up, down; `UnsupportedAdapterError` for prompts
    that are learnt, whose tokens no label belongs to, and for adapters that rebuild states.
    """
    config = text_config(model)
    check_family(config)
    _refuse_adapters(model)
    found = [
        _layer(path, module)
        for path, module in model.named_modules()
        # Its own modules: wrappers of blocks, such as ReFT's, pass on the names of what they wrap.
        if all(hasattr(module._modules.get("self_attn"), name) for name in ATTENTION)
        and all(hasattr(module._modules.get("mlp"), name) for name in MLP)
    ]
    if len(found) != config.num_hidden_layers:
        raise UnsupportedModelError(
            f"sparse compute: {len(found)} of {config.num_hidden_layers} layers of this "
            f"'{config.model_type}' have separate projections q, k, v, o and gate, up, down"
        )
    return found


def check_family(config: Any) -> None:
    """Raise `UnsupportedModelError` if no model of the configuration `config` can be sliced."""
    kind = config.model_type
    if kind not in MODEL_TYPES:
        raise UnsupportedModelError(
            f"sparse compute: models of type '{kind}' are not supported; those of "
            f"{', '.join(MODEL_TYPES)} are"
        )
    if config.hidden_act not in ("silu", "swish"):
        raise UnsupportedModelError(
            f"sparse compute: activation '{config.hidden_act}' is not supported, only silu"
        )


def text_config(model: nn.Module) -> Any:
    """The configuration of the decoder."""
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise UnsupportedModelError(
            f"sparse compute: a {type(model).__name__} is no transformers model; give the model "
            "itself, or the PeftModel around it"
        )
    return config.get_text_config()


def _layer(path: str, module: Any) -> DecoderLayer:
    attention = module.self_attn
    group = attention.num_key_value_groups
    query_heads = module.self_attn.config.num_attention_heads
    heads = HeadShape(
        query_heads=query_heads, key_heads=query_heads // group, head_dim=attention.head_dim
    )
    return DecoderLayer(path=path, attention=attention, mlp=module.mlp, heads=heads)


def _refuse_adapters(model: Any) -> None:
    configs = getattr(model, "peft_config", None)
    for config in configs.values() if isinstance(configs, dict) else ():
        if getattr(config, "is_prompt_learning", False):
            raise UnsupportedAdapterError(
                f"sparse compute: {getattr(config, 'peft_type', 'a prompt adapter')} puts learnt "
                "tokens in front of the text; use a method that adapts layers, such as lora"
            )
        if getattr(config, "rebuilds_states", False):
            raise UnsupportedAdapterError(
                f"sparse compute: {getattr(config, 'peft_type', 'an adapter')} computes each layer "
                "a second time, from states that are only nearly the same, for which other "
                "channels might be chosen; use a method such as lora"
            )
