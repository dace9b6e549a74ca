"""Finds the vectors and tables of a model, before its layers are replaced."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.adapters.kinds.networks.two_streams import BLOCK_PARTS, MODEL_TYPES
from gossamer.serving.packing.trained_parts.base import BaseParts
from gossamer.serving.runner.model_shape import decoder_blocks


def norms_of(model: Any) -> dict[str, nn.Module]:
    """Return the norms that have weights and read one input, by module path."""
    return {
        path: module
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__
        and isinstance(getattr(module, "weight", None), Tensor)
        and len(signature(module.forward).parameters) == 1
    }


def base_parts(model: Any, *, is_whole: bool = True) -> BaseParts:
    """Return where adapters of `model`, or of a rank's part of one, may have parts of their own."""
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    ids: dict[str, int] = {}
    vectors: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not output:
            ids[f"{path}.bias"] = len(ids)
            if module.bias is not None:
                vectors[f"{path}.bias"] = _copy(module.bias)
    for path, norm in norms_of(model).items():
        for name, parameter in norm.named_parameters(recurse=False):
            if name in ("weight", "bias") and parameter.dim() == 1:
                ids[f"{path}.{name}"] = len(ids)
                vectors[f"{path}.{name}"] = _copy(parameter)
    paths = {id(module): path for path, module in model.named_modules()}
    return BaseParts(
        vector_ids=ids,
        vectors=vectors,
        embedding=paths[id(embedding)],
        output=paths.get(id(output), ""),
        is_tied=getattr(output, "weight", None) is embedding.weight,
        rows=embedding.weight.detach() if is_whole else None,
        norms_before=_norms_before(model),
    )


def _norms_before(model: Any) -> bool:
    if model.config.get_text_config().model_type not in MODEL_TYPES:
        return False
    return all(hasattr(block, part) for block in decoder_blocks(model) for part in BLOCK_PARTS)


def tables_of(parts: BaseParts, vocabulary: int, width: int) -> dict[str, tuple[int, int]]:
    """Return (tokens, width) of the embedding and the output layer, by module path."""
    return {path: (vocabulary, width) for path in (parts.embedding, parts.output) if path}


def lengths_of(parts: BaseParts) -> dict[str, int]:
    """Return the lengths of the vectors that the base has, by name."""
    return {name: len(vector) for name, vector in parts.vectors.items()}


def _copy(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", torch.float32, copy=True)
