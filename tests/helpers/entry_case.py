"""What the tests of methods that change single entries share."""

import torch
from transformers import AutoModelForCausalLM

from gossamer import methods
from gossamer.basemodel.load import load_model

from tiny import make_context

IDS = torch.arange(40).reshape(2, 20) + 5


def context(folder, **changes):
    return make_context(folder, **{"probe_batches": probe_batches, **changes})


def probe_batches(count):
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        ids = torch.randint(5, 250, (2, 12), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 8:] = 0
        labels = ids.masked_fill(mask == 0, -100)
        yield {"input_ids": ids, "attention_mask": mask, "labels": labels}


def build(name, folder, *, dtype=torch.float32, where=None, **settings):
    """(method, prepared model, context)."""
    method = methods.find(name).from_values(settings)
    where = where or context(folder)
    return method, method.prepare(load_model(folder, dtype=dtype), where), where


def logits(model, ids=IDS):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def learning(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def disturb(model, size=0.05, seed=1):
    """As if trained: every weight that learns moves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in learning(model).values():
            parameter += size * torch.randn(parameter.shape, generator=generator).to(parameter)


def layers_of(model, layer_type):
    """Adapted layers by path in the base model."""
    return {
        path: module
        for path, module in model.base_model.model.named_modules()
        if isinstance(module, layer_type)
    }


def base_weights(folder, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return dict(model.state_dict())
