"""Cuts what is masked out of the weights, and writes the smaller model."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from gossamer.basemodel.pruned import LayerWidths, config_of_widths
from gossamer.files import write_whole
from gossamer.methods.common.files import write_model
from gossamer.methods.common.method import MethodContext
from gossamer.methods.loraprune.model import GroupedLayers
from gossamer.methods.loraprune.pruner import Pruner, adapted_weight

GROUPS_FILE = "pruned_groups.json"


@torch.no_grad()
def cut_model(model: Any, pruner: Pruner) -> Any:
    """Make the model without the groups that are gone, LoRA merged; to be saved, not to compute.

    It shares the weights that nothing acts on with the `PeftModel` `model`, which stays as it is.
    """
    base = model.get_base_model()
    dtype = base.get_input_embeddings().weight.dtype
    weights = {
        name: tensor
        for name, tensor in base.state_dict().items()
        if not any(mark in name for mark in (".base_layer.", ".lora_"))
    }
    for group in pruner.groups:
        weights |= _cut(base, group, pruner.kept(group), dtype)
    widths = LayerWidths(
        kv_heads=tuple(len(pruner.kept(g)) for g in pruner.groups if g.part == "heads"),
        channels=tuple(len(pruner.kept(g)) for g in pruner.groups if g.part == "mlp"),
    )
    config = config_of_widths(base.config, widths)
    # What is written is whole again, whatever the base rested in.
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        smaller = AutoModelForCausalLM.from_config(config, dtype=dtype)
    smaller.load_state_dict(weights, assign=True)
    smaller.tie_weights()
    smaller.generation_config = base.generation_config
    return smaller


def _cut(base: Any, group: GroupedLayers, kept: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the merged weights and the biases of a group's layers, by name, without what is gone.

    One layer at a time is made whole, in float32.
    """
    paths = {id(module): path for path, module in base.named_modules()}
    found = {}
    for name in (*group.widths, group.behind):
        layer = getattr(group.module, name)
        adapted = adapted_weight(layer)
        lines = group.lines(kept.to(adapted.weight.device), name)
        merged = torch.cat([adapted.merged(rows) for rows in adapted.slices()])
        bias = layer.get_base_layer().bias
        is_behind = name == group.behind
        path = paths[id(layer)]
        cut = merged[:, lines] if is_behind else merged[lines]
        found[f"{path}.weight"] = cut.to(dtype).contiguous()
        if bias is not None:
            found[f"{path}.bias"] = bias.detach() if is_behind else bias.detach()[lines]
    return found


def export_smaller(model: Any, pruner: Pruner, folder: Path, context: MethodContext) -> None:
    """Write the smaller model, and beside it which groups of the base it consists of."""
    write_model(cut_model(model, pruner), folder, context)
    kept = {group.key: pruner.kept(group).tolist() for group in pruner.pruned}
    write_whole(folder / GROUPS_FILE, json.dumps(kept) + "\n")
