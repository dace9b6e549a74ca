"""Tiny models with MEFT, and its equations written out once more, for autograd as it is."""

import torch
from method_helpers import base_folder, base_model
from peft import get_peft_model
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from gossamer.methods.meft.model import MeftConfig

from tiny import SHAPE

DOUBLE = torch.float64
VARIANTS = ("meft1", "meft2", "meft3")


class ExactNorm(torch.nn.Module):
    """An RMS norm that computes in the type of its input; transformers' own leave float64."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)


def _exact(model):
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                setattr(module, name, ExactNorm(child))
    return model


def base(layers=3, *, family="llama", dtype=DOUBLE, **fields):
    """A tiny random model of that depth; its attention has fewer heads of keys than of queries."""
    if layers == 3 and not fields:
        model = base_model(base_folder(family), dtype)
        return _exact(model) if dtype == DOUBLE else model
    settings = {**SHAPE, "vocab_size": 259, "num_hidden_layers": layers, **fields}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings), dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.12)
    return _exact(model) if dtype == DOUBLE else model


def meft(model=None, *, stir=0.1, **fields):
    """`model` with an adapter of all layers that has learnt something, in training mode."""
    model = base() if model is None else model
    count = model.config.num_hidden_layers
    fields = {"width": 4, "reversible_layers": count, **fields}
    torch.manual_seed(0)
    model = get_peft_model(model, MeftConfig(task_type="CAUSAL_LM", **fields))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += stir * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model.train()


def tokens(rows=2, length=9, *, padding=None, seed=1):
    """ids, mask and labels [rows, length]; the second row is shorter, padded on one side."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 200, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    if padding == "left":
        mask[1, :3] = 0
    elif padding == "right":
        mask[1, -3:] = 0
    ids = ids.masked_fill(mask == 0, 2)
    labels = ids.masked_fill(mask == 0, -100)
    if padding == "left":
        # What padding says of the first token.
        labels[1, 3] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def unmerged(model):
    """(config, [(decoder layer, adapter of F, adapter of G)]) of a model with one adapter."""
    layers = list(model.base_model._layers())
    found = []
    for layer in layers:
        parts = [
            {p: getattr(layer, f"meft_{half}_{p}")["default"] for p in ("down", "up")}
            for half in ("f", "g")
        ]
        found.append((layer.base_layer, *parts))
    return model.peft_config["default"], found


def adapter(parts, x):
    return parts["up"](functional.gelu(parts["down"](x)))


def published(model, ids, mask):
    """The last hidden states [batch, tokens, d] before the final norm, by the equations."""
    config, layers = unmerged(model)
    decoder = model.get_base_model().model
    lam, beta, whole = config.lam, config.beta, config.residual == "whole"
    h = decoder.embed_tokens(ids)
    positions = torch.arange(ids.shape[1])[None]
    rotations = decoder.rotary_emb(h, positions)
    seen = torch.ones(ids.shape[1], ids.shape[1]).tril().bool() & mask[:, None, None].bool()
    # Padding that sees nothing else sees something; no label depends on it.
    seen = seen | ~seen.any(-1, keepdim=True)

    def attention(block, x):
        normed = block.input_layernorm(x)
        return block.self_attn(normed, position_embeddings=rotations, attention_mask=seen)[0]

    def full_layer(block, parts, x):
        u = x + attention(block, x)
        normed = block.post_attention_layernorm(u)
        return u + block.mlp(normed) + adapter(parts, normed)

    def normed_adapter(parts, x):
        return adapter(parts, x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt())

    x1 = x2 = h
    for block, of_f, of_g in layers:
        if config.variant == "meft1":
            y1 = lam * x1 + full_layer(block, of_f, x2) - (0 if whole else lam * x2)
            y2 = beta * x2 + normed_adapter(of_g, y1)
        elif config.variant == "meft2":
            y1 = lam * x1 + normed_adapter(of_f, x2)
            y2 = beta * x2 + full_layer(block, of_g, y1) - (0 if whole else beta * y1)
        else:
            out = attention(block, x2)
            y1 = lam * x1 + x2 + out + adapter(of_f, out) - (0 if whole else lam * x2)
            normed = block.post_attention_layernorm(y1)
            y2 = beta * x2 + y1 + block.mlp(normed) + adapter(of_g, normed)
            y2 = y2 - (0 if whole else beta * y1)
        x1, x2 = (y1, y2) if config.variant == "meft3" else (y2, y1)
    return (x1 + x2) / 2


def gradients(model, loss):
    """By name, and the loss."""
    model.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return loss.detach(), found


def largest_error(found, expected):
    """The largest relative error (by norms) of two tables of tensors with the same names."""
    assert found.keys() == expected.keys()
    return max(
        ((found[n] - expected[n]).norm() / expected[n].norm().clamp_min(1e-12)).item()
        for n in expected
    )
