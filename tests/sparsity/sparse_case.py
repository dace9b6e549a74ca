"""Tiny models with adapters, and the slow, obvious way to compute sparsely: dense, then masked."""

import contextlib

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from gossamer.sparsity.family import decoder_layers
from gossamer.sparsity.frozen_linear import base_linear
from gossamer.sparsity.layers import SparseGroup

from tiny import SHAPE

VOCAB = 64
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


def tiny_base(model_type="llama", *, dtype=torch.float64, attn="sdpa", **shape):
    """A random model; with biases where the family has them, and not at zero."""
    config = AutoConfig.for_model(model_type, **{**SHAPE, "vocab_size": VOCAB, **shape})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attn)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.15)
            elif "bias" in dict(model.named_parameters()):
                parameter.normal_(0.0, 0.1)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.3)
    return model.requires_grad_(False)


def with_lora(model, targets=tuple(ATTENTION), **config):
    """The model under a LoRA whose B is not zero, in training mode."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": list(targets), **config}
    peft_model = get_peft_model(model, LoraConfig(**settings))
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    for parameter in peft_model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(model.dtype)
    return peft_model.train()


def batch(*, rows=3, length=14, outputs=4, padding="right", seed=0):
    """Ids, mask and labels: rows of unlike lengths, the last `outputs` real tokens learnt."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    labels = torch.full_like(ids, -100)
    for row in range(rows):
        pad = 0 if padding == "none" else row
        real = slice(pad, length) if padding == "left" else slice(0, length - pad)
        mask[row] = 0
        mask[row, real] = 1
        end = real.stop
        labels[row, end - outputs : end] = ids[row, end - outputs : end]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gradients(model, inputs):
    """Loss, logits and gradients of all that learns, of one pass."""
    model.zero_grad()
    out = model(**inputs)
    out.loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return out.loss.detach(), out.logits.detach(), grads


class Chosen(dict):
    """The index sets that layers chose, as {module path: {projection: indices}}."""

    def __init__(self):
        super().__init__()
        self.compensations = {}
        """What stands in for the other channels, by module path."""


@contextlib.contextmanager
def recorded(monkeypatch):
    """Record what layers choose, as `Chosen`."""
    found = Chosen()
    choose = {}

    def record(cls):
        choose[cls] = cls.choose

        def choosing(self, x, split):
            found[self._path] = choose[cls](self, x, split)
            found.compensations[self._path] = getattr(self, "_compensation", None)
            return found[self._path]

        monkeypatch.setattr(cls, "choose", choosing)

    for cls in SparseGroup.__subclasses__():
        record(cls)
    yield found
    monkeypatch.undo()


@contextlib.contextmanager
def masked_dense(model, chosen, sparse):
    """Dense products, then masks: outputs of q, k, v, gate and up, inputs of o and down.

    `chosen` as from `recorded`; `sparse` [batch, length] is True at sparse tokens.
    """
    undo = []
    for layer in decoder_layers(model):
        for block, name in ((layer.attention, "self_attn"), (layer.mlp, "mlp")):
            for projection, index in chosen.get(f"{layer.path}.{name}", {}).items():
                linear, _ = base_linear(getattr(block, projection), projection)
                width = linear.in_features if projection in READS else linear.out_features
                keep = torch.zeros(width, dtype=torch.bool)
                keep[index] = True
                mask = keep | ~sparse[:, :, None]
                linear.forward = masked(linear, mask, on_input=projection in READS)
                undo.append(linear)
            found = chosen.compensations.get(f"{layer.path}.{name}")
            if found is not None:
                block.forward = compensated(block, found, sparse)
                undo.append(block)
    yield
    for linear in undo:
        del linear.__dict__["forward"]


def compensated(block, found, sparse):
    forward = block.forward

    def with_stand_in(x):
        added = found.offset + (x @ found.inputs.t()) @ found.outputs
        return forward(x) + added * sparse[:, :, None]

    return with_stand_in


READS = ("o_proj", "down_proj")


def masked(linear, mask, *, on_input):
    def forward(x):
        if on_input:
            return F.linear(x * mask, linear.weight, linear.bias)
        return F.linear(x, linear.weight, linear.bias) * mask

    return forward
