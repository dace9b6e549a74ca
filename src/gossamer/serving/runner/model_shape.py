"""Sizes of a loaded model that its pool and its adapters depend on."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from gossamer.adapters.base_shape import BaseShape
from gossamer.basemodel.pruned import has_uneven_heads, widths_of
from gossamer.basemodel.quantize import served_quantization
from gossamer.basemodel.sharded import ModelPart, check_size, cut_whole, styles_of
from gossamer.errors import UnsupportedModelError
from gossamer.serving.packing.capacity import FLOAT, BaseSizes


def kv_shape(config: Any) -> tuple[int, int, int]:
    """The (layers, key/value heads, head width) of a model with this transformers config."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, getattr(config, "num_key_value_heads", heads), head_dim


def decoder_blocks(model: Any) -> list[nn.Module]:
    """Return the decoder blocks of a model, from the input on.

    Raises `UnsupportedModelError` if there is no list of as many as its config says.
    """
    wanted = model.config.num_hidden_layers
    for child in model.get_decoder().children():
        if isinstance(child, nn.ModuleList) and len(child) == wanted:
            return list(child)
    raise UnsupportedModelError(
        f"models of architecture '{model.config.model_type}' cannot be served: no list of "
        f"{wanted} decoder blocks was found"
    )


def as_linear(model: Any) -> None:
    """Replace layers that keep their weight transposed (GPT-2's) by linear ones, in place."""
    for path, module in list(model.named_modules()):
        if type(module).__name__ == "Conv1D":
            h_in, h_out = module.weight.shape
            with torch.device("meta"):
                linear = nn.Linear(h_in, h_out)
            linear.weight = nn.Parameter(module.weight.detach().T.contiguous(), requires_grad=False)
            linear.bias = nn.Parameter(module.bias.detach(), requires_grad=False)
            model.set_submodule(path, linear)


def layer_kv_heads(config: Any) -> tuple[int, ...]:
    """The key/value heads of each layer, where layers have unlike numbers; else nothing."""
    return widths_of(config).kv_heads if has_uneven_heads(config) else ()


def has_window(config: Any) -> bool:
    """Whether some layer sees a number of positions back only."""
    return bool(
        getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    )


def linear_bytes(model: Any) -> int:
    """The bytes of the linear layers that adapters can act on."""
    output = model.get_output_embeddings()
    return sum(
        module.weight.numel() * module.weight.element_size()
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not output
    )


def longest_row(model: Any) -> int:
    """The widest vector of a factor that an adapter of this model can have."""
    output = model.get_output_embeddings()
    return max(
        max(module.in_features, module.out_features)
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not output
    )


def base_sizes(
    folder: Path, width: int = FLOAT, quantization: str = "none", num_ranks: int = 1
) -> BaseSizes:
    """Sizes of the model in `folder` in numbers of `width` bytes; its weights are not read.

    `quantization`: as in `ServeSettings`; with several `num_ranks`, what one of them has.

    Raises `BaseModelError`, or `SettingError` if the model is saved quantised in another way, or
    cannot be divided so.
    """
    from transformers import AutoModelForCausalLM

    from gossamer.basemodel.load import load_config

    config: Any = load_config(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    as_linear(model)
    num_layers, num_kv_heads, head_dim = kv_shape(config)
    divided_inputs: frozenset[str] = frozenset()
    if num_ranks > 1:
        check_size(config, num_ranks)
        styles = styles_of(model._tp_plan, [path for path, _ in model.named_modules()])
        divided_inputs = frozenset(path for path, style in styles.items() if style == "row")
        cut_whole(model, ModelPart(0, num_ranks))
        num_kv_heads = max(1, num_kv_heads // num_ranks)
    output = model.get_output_embeddings()
    return BaseSizes(
        shape=BaseShape(
            linears={
                path: (module.out_features, module.in_features)
                for path, module in model.named_modules()
                if isinstance(module, torch.nn.Linear) and module is not output
            },
            num_layers=num_layers,
            hidden_size=config.hidden_size,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            layer_kv_heads=layer_kv_heads(config),
        ),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        max_context=config.max_position_embeddings,
        width=width,
        quantization=served_quantization(config, quantization),
        divided_inputs=divided_inputs,
    )
