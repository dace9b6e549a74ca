"""Estimates how much memory a run will need, without loading the model."""

from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from gossamer.basemodel.load import load_config
from gossamer.basemodel.pruned import widths_of
from gossamer.methods import Method, MethodContext
from gossamer.methods.common.targets import find_blocks, linear_paths
from gossamer.training.loop.device import count_parameters

# Python with torch, transformers, TRL and PEFT loaded, before any weights.
_PROCESS_BYTES = 550 * 2**20
# NF4: half a byte per weight, and the scales of blocks of 64.
_NF4_BYTES = 0.516
# What is in use and what the process takes differ by what the allocator keeps and cannot reuse.
# Measured on a CPU (glibc); the GPU's is an assumption.
_ALLOCATOR = {"cpu": 1.75, "cuda": 1.2}
# TRL's fused head works on tiles of [positions, vocabulary entries]; on a CPU it makes about eight
# copies of a tile, on a GPU one.
_TILE = (4096, 32768)
_TILE_COPIES = {"cpu": 8, "cuda": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Estimated bytes, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    process: int
    trainable: int
    """The number of parameters that learn."""
    total_parameters: int

    @property
    def total(self) -> int:
        """The sum of all bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.process


def estimate(method: Method[Any], context: MethodContext, **rows: int) -> Estimate:
    """Estimate the stage that needs most memory; the arguments are those of `estimate_stages`."""
    return max(estimate_stages(method, context, **rows), key=lambda stage: stage.total)


def estimate_stages(
    method: Method[Any],
    context: MethodContext,
    *,
    batch_size: int,
    longest_row: int,
    most_trained: int,
    sharing: int = 1,
) -> list[Estimate]:
    """Estimate the peak memory of a training step on the largest batch that may come, by stage.

    That is `batch_size` rows of `longest_row` tokens, of which `most_trained` are learnt each.
    `sharing` processes divide the base's blocks; the estimate is then of one of them.
    Estimate over measured peak of the process, SmolLM2-135M, float32, CPU, half the tokens learnt:
    lora 4 x 128 tokens 2.36 / 2.50 GiB = 0.94, 8 x 128 3.61 / 3.79 = 0.95, dora 4 x 128 3.40 / 3.20
    = 1.06, full 3.79 / 3.22 = 1.18, qlora 2.02 / 2.52 = 0.80, lora 4 x 256 with gradient
    checkpointing 1.79 / 2.38 = 0.75. Not measured on a GPU.
    """
    with torch.device("meta"):
        model = method.prepare(model_without_weights(method, context), context)
    estimates = []
    for index in range(len(method.stages(context))):
        if index > 0:
            with torch.device("meta"):
                model = method.enter_stage(model, index, context)
        rows = (batch_size, longest_row, most_trained)
        estimated = _of_model(model, method, context, rows)
        if sharing > 1:
            elsewhere = _elsewhere(model, sharing)
            estimated = replace(estimated, weights=estimated.weights - elsewhere)
        estimates.append(estimated)
    return estimates


def _elsewhere(model: Any, sharing: int) -> int:
    """Bytes of weights that other processes hold; one computes a block and gathers the next."""
    _, blocks = find_blocks(model, "shard_base")
    sizes = [
        sum(p.numel() * p.element_size() for p in block.parameters() if not p.requires_grad)
        for block in blocks
    ]
    held = sum(sizes) // sharing + sum(sorted(sizes)[-2:])
    return max(sum(sizes) - held, 0)


def _of_model(
    model: Any, method: Method[Any], context: MethodContext, rows: tuple[int, int, int]
) -> Estimate:
    batch_size, longest_row, most_trained = rows
    config = model.config.get_text_config()
    quantized = set(linear_paths(model)) if method.quantization(context) is not None else set()
    trainable_bytes = sum(
        p.numel() * p.element_size() for p in model.parameters() if p.requires_grad
    )
    trainable, total = count_parameters(model)
    tokens = batch_size * longest_row
    activations = _layers(config, method, context, tokens=tokens)
    head = _head(config, context, positions=batch_size * most_trained)
    return Estimate(
        weights=round(sum(_size(n, p, quantized) for n, p in model.named_parameters())),
        gradients=trainable_bytes,
        optimizer=2 * trainable_bytes,
        activations=round(activations * _ALLOCATOR[_kind(context)]) + head,
        process=_PROCESS_BYTES if context.device == "cpu" else 0,
        trainable=trainable,
        total_parameters=total,
    )


def model_without_weights(method: Method[Any], context: MethodContext) -> Any:
    """The base model's structure as `method` wants it loaded, on the device \"meta\"."""
    dtype = torch.float32 if method.trains_base else getattr(torch, context.dtype)
    config = load_config(context.base_folder)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _size(name: str, parameter: torch.Tensor, quantized: set[str]) -> float:
    path = name.removesuffix(".weight").removesuffix(".base_layer")
    if not parameter.requires_grad and any(path.endswith(other) for other in quantized):
        return parameter.numel() * _NF4_BYTES
    return parameter.numel() * parameter.element_size()


def _layers(config: Any, method: Method[Any], context: MethodContext, *, tokens: int) -> int:
    """Bytes that the forward pass through the layers keeps for the backward pass.

    Per token and layer: h into each of the two norms and, normed, into attention and MLP; queries,
    keys, values and the heads' output; 4 times the MLP's width. A method may keep the outputs of
    its linear layers besides, or no inputs of theirs: the normed h, and one of the MLP's four.
    With gradient checkpointing: h per layer, and all this for one layer. Layers that a method runs
    without a backward pass keep nothing; what it keeps beside the layers is its own to say.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    widths = widths_of(config)
    # Means over the layers, which in pruned models have widths of their own.
    mlp, kv_heads = fmean(widths.channels), fmean(widths.kv_heads)
    queries, keys = heads // max(widths.kv_heads) * kv_heads * head_dim, kv_heads * head_dim
    outputs = queries + 2 * keys + hidden + 2 * mlp + hidden
    layer = 4 * hidden + 2 * queries + 2 * keys + 4 * mlp + method.outputs_kept * outputs
    layer -= 0 if method.inputs_kept else 2 * hidden + mlp
    layers = method.layers_kept(config.num_hidden_layers)
    if context.gradient_checkpointing:
        kept = layers * hidden + min(layers, 1) * layer
    else:
        kept = layers * layer
    size = 4 if context.dtype == "float32" else 2
    kept += method.kept_beside(config.num_hidden_layers, hidden, size)
    return round(tokens * kept * size)


def _head(config: Any, context: MethodContext, *, positions: int) -> int:
    """Bytes of the scores that the output head holds at once, in float32."""
    tile = min(positions, _TILE[0]) * min(config.vocab_size, _TILE[1])
    return tile * 4 * _TILE_COPIES[_kind(context)]


def _kind(context: MethodContext) -> str:
    return context.device.split(":")[0]
