"""Tiny models with ReFT for its tests."""

import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from gossamer.methods.reft.model import ReftConfig


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def reft(folder, *, dtype=torch.float32, seed=0, **settings):
    """A tiny model with random edits, in evaluation mode."""
    torch.manual_seed(seed)
    values = {"rank": 4, "first_positions": 2, "last_positions": 3, **settings}
    model = get_peft_model(load(folder, dtype), ReftConfig(**values))
    return enlarge(model).to(dtype).eval()


def enlarge(model):
    """Edits large enough to change logits plainly."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "reft_" in name and ("weight" in name or "bias" in name):
                parameter.mul_(8)
    return model


def tokens(rows=2, length=14, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 200, (rows, length), generator=generator)


def outputs_of_blocks(model, **inputs):
    """Output of every decoder block, as later blocks see it, and the logits."""
    seen = {}
    blocks = model.get_base_model().model.layers
    hooks = [
        block.register_forward_hook(
            lambda m, a, out, i=i: seen.__setitem__(i, out.detach().clone())
        )
        for i, block in enumerate(blocks)
    ]
    with torch.no_grad():
        logits = model(**inputs).logits
    for hook in hooks:
        hook.remove()
    return [seen[i] for i in range(len(blocks))], logits
