"""A tiny model of eight query heads on four key/value heads, with LoRA and a pruner."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from method_helpers import IDS, LABELS, base_model, context
from transformers import set_seed

from gossamer.methods.loraprune.method import Loraprune

from tiny import make_tiny_model

HEADS, KV_HEADS, CHANNELS, LAYERS, HEAD_DIM = 8, 4, 100, 3, 16
SETTINGS = {"rank": 4, "alpha": 6, "mlp_ratio": 0.3, "head_ratio": 0.5, "interval": 1}


@cache
def folder_of(family: str) -> Path:
    shape = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
    if family == "smollm3":
        shape["no_rope_layers"] = [1, 0, 1]
    if family == "mistral":
        shape["sliding_window"] = None
    return make_tiny_model(Path(mkdtemp(prefix="prune-")) / family, model_type=family, **shape)


def learning(family="llama", dtype=torch.float32, **settings):
    """(method, model with LoRA that is no zero, context)."""
    method = Loraprune.from_values({**SETTINGS, **settings})
    where = context(folder_of(family))
    set_seed(0)
    model = method.prepare(base_model(where.base_folder, dtype).to(dtype), where)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
                parameter += 0.05 * torch.randn_like(parameter)
    return method, model, where


def backward(model):
    """Gradients of one batch."""
    model.zero_grad()
    model(input_ids=IDS, labels=LABELS, use_cache=False).loss.backward()


def pruned(family="llama", **settings):
    """The same after a score and the last pruning."""
    method, model, where = learning(family, **settings)
    backward(model)
    method.pruner.score()
    values = {**SETTINGS, **settings}
    method.pruner.prune({"heads": values["head_ratio"], "mlp": values["mlp_ratio"]})
    return method, model, where
