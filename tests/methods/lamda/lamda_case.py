"""One linear layer with LaMDA, and a tiny model with it."""

import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from gossamer.methods.lamda.layer import LamdaLinear
from gossamer.methods.lamda.model import LamdaConfig


def layer(out=20, into=14, *, rank=6, dtype=torch.float64, seed=0, **settings):
    """A layer of `out` x `into` with a bias, its weight frozen."""
    torch.manual_seed(seed)
    base = nn.Linear(into, out).to(dtype).requires_grad_(False)
    made = LamdaLinear(base)
    config = LamdaConfig(rank=rank, svd="exact", **{"alpha": 3.0, **settings})
    made.update_layer("default", config, rank, True)
    return made.to(dtype)


def disturb(module, size=0.1):
    """As if trained."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lamda_" in name:
                parameter.add_(size * torch.randn_like(parameter))
    return module


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def lamda(folder, **settings):
    """A tiny model with LaMDA."""
    torch.manual_seed(0)
    return get_peft_model(load(folder), LamdaConfig(**{"rank": 6, **settings}))


def tokens(rows=2, length=12):
    return torch.randint(5, 200, (rows, length), generator=torch.Generator().manual_seed(1))
