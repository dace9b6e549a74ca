"""How much memory a run will need, without loading the model."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from gossamer.basemodel.load import load_config
from gossamer.methods import Method, MethodContext
from gossamer.methods.targets import linear_paths
from gossamer.training.device import count_parameters

# Python with torch, transformers, TRL and PEFT loaded, before any weights.
_PROCESS_BYTES = 550 * 2**20
# NF4: half a byte per weight, and the scales of blocks of 64.
_NF4_BYTES = 0.516


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    process: int
    trainable: int
    """Parameters that learn."""
    total_parameters: int

    @property
    def total(self) -> int:
        """All bytes together."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.process


def estimate(
    method: Method[Any], context: MethodContext, *, batch_size: int, longest_row: int
) -> Estimate:
    """Peak memory of a training step on the largest batch: `batch_size` rows of `longest_row`."""
    model = _without_weights(method, context)
    quantized = set(linear_paths(model)) if method.quantization(context) is not None else set()
    trainable_bytes = sum(
        p.numel() * p.element_size() for p in model.parameters() if p.requires_grad
    )
    trainable, total = count_parameters(model)
    return Estimate(
        weights=round(sum(_size(n, p, quantized) for n, p in model.named_parameters())),
        gradients=trainable_bytes,
        optimizer=2 * trainable_bytes,
        activations=_activations(
            model.config.get_text_config(), context, tokens=batch_size * longest_row
        ),
        process=_PROCESS_BYTES if context.device == "cpu" else 0,
        trainable=trainable,
        total_parameters=total,
    )


def _without_weights(method: Method[Any], context: MethodContext) -> Any:
    dtype = torch.float32 if method.trains_base else getattr(torch, context.dtype)
    config = load_config(context.base_folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        return method.prepare(model, context)


def _size(name: str, parameter: torch.Tensor, quantized: set[str]) -> float:
    path = name.removesuffix(".weight").removesuffix(".base_layer")
    if not parameter.requires_grad and any(path.endswith(other) for other in quantized):
        return parameter.numel() * _NF4_BYTES
    return parameter.numel() * parameter.element_size()


def _activations(config: Any, context: MethodContext, *, tokens: int) -> int:
    """What the forward pass keeps for the backward pass.

    Per token and layer: 4 h around the two norms, h into the attention's projections, the heads'
    queries, keys, values and output (keys and values repeated to all heads), h into the MLP, and 4
    times the MLP's width. With gradient checkpointing: h, and all of it for one layer.
    """
    hidden, mlp = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads
    attention = heads * (getattr(config, "head_dim", None) or hidden // heads)
    layer = 6 * hidden + 5 * attention + 4 * mlp
    layers = config.num_hidden_layers
    per_token = layers * hidden + layer if context.gradient_checkpointing else layers * layer
    width = 4 if context.dtype == "float32" else 2
    return tokens * per_token * width
