"""Our tuners as users of PEFT make them, for the tests that put the same question to all."""

import torch
from method_helpers import base_folder, base_model
from peft import get_peft_model

from gossamer.methods.smt.blocks import Block
from gossamer.tuners import (
    BottleneckConfig,
    LamdaConfig,
    LortaConfig,
    MeftConfig,
    ReftConfig,
    SherlConfig,
    SloraConfig,
    SmtConfig,
    SparseLoraConfig,
)

BLOCKS = {
    f"model.layers.{layer}.self_attn.{name}": [Block(0, 0, 16, 16), Block(16, 24, 8, 24)]
    for layer in range(3)
    for name in ("q_proj", "o_proj")
}
TARGETS = {"target_modules": ["q_proj", "o_proj", "down_proj"]}


def of(cls, **fields):
    """Makes such a configuration, with further fields if wanted."""
    return lambda **more: cls(**{**fields, **more})


REFT = {"rank": 4, "start": "identity", "first_positions": 2, "last_positions": 2}
CONFIGS = {
    "smt": of(SmtConfig, blocks=BLOCKS),
    "smt_drawn": of(SmtConfig, **TARGETS, block_size=16, density=0.3),
    "slora": of(SloraConfig, **TARGETS, density=0.2),
    "slora_residual": of(SloraConfig, **TARGETS, density=0.2, r=4),
    "sparse_lora": of(SparseLoraConfig, **TARGETS, density=0.2, r=4),
    "lamda": of(LamdaConfig, **TARGETS, rank=4),
    "lamda_pp": of(LamdaConfig, **TARGETS, rank=4, allocation="spectrum"),
    "lorta": of(LortaConfig, rank=4),
    "loreft": of(ReftConfig, **REFT),
    "direft": of(ReftConfig, variant="direft", **REFT),
    "nodireft": of(ReftConfig, variant="nodireft", **REFT),
    **{
        name: of(MeftConfig, variant=name, width=4, reversible_layers=2)
        for name in ("meft1", "meft2", "meft3")
    },
    "sherl": of(SherlConfig, late_layers=1, reduction=2),
    "houlsby": of(BottleneckConfig, target_modules=["o_proj", "down_proj"], width=4),
}
NAMES = list(CONFIGS)
LINEAR = ["smt_drawn", "slora", "slora_residual", "sparse_lora", "lamda", "lamda_pp", "houlsby"]
"""Those of linear layers that are named by `target_modules`."""
MEFT = ("meft1", "meft2", "meft3")
"""Those that begin near the base and not as it: another model of nearly the same answers."""
UNMERGED = ("loreft", "direft", "nodireft", "sherl", "houlsby", *MEFT)
MERGED = [name for name in NAMES if name not in UNMERGED]
"""Those that can be merged."""


def base(dtype=torch.float32):
    return base_model(base_folder("llama"), dtype)


def tuned(name, *, dtype=torch.float32, seed=0, **fields):
    """A model with the adapter `default`, which has learnt something."""
    torch.manual_seed(seed)
    model = get_peft_model(base(dtype), CONFIGS[name](task_type="CAUSAL_LM", **fields))
    stir(model, seed)
    return model


def stir(model, seed=0):
    """As if trained: what learns moves, but for rows that stay orthonormal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and ("rotate" not in name or not weight.any()):
                weight += 0.2 * torch.randn(weight.shape, generator=generator).to(weight)


def numbers(model, adapter="default"):
    """Floating-point tensors of an adapter, by name."""
    return {
        key: tensor
        for key, tensor in model.state_dict().items()
        if f".{adapter}" in key and tensor.is_floating_point()
    }
