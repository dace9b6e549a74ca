"""Tiny base models, cached, and methods applied to them."""

import copy
import importlib
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from cases import CASES
from peft import PeftModel
from transformers import AutoModelForCausalLM, set_seed

from gossamer import methods
from gossamer.basemodel.load import load_model

from tiny import make_context, make_tiny_model

IDS = torch.arange(40).reshape(2, 20) + 5
# A prompt of eight tokens, which is not learnt.
LABELS = IDS.masked_fill(torch.arange(20) < 8, -100)


@cache
def base_folder(model_type: str) -> Path:
    return make_tiny_model(Path(mkdtemp(prefix="bench-")) / model_type, model_type=model_type)


@cache
def _loaded(folder: Path, dtype: torch.dtype):
    return load_model(folder, dtype=dtype)


def base_model(folder: Path, dtype: torch.dtype = torch.float32):
    """A fresh copy of the base model in `folder`."""
    return copy.deepcopy(_loaded(folder, dtype))


def probe_batches(count):
    for _ in range(count):
        yield {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": LABELS}


def context(folder, **changes):
    return make_context(folder, **{"probe_batches": probe_batches, **changes})


def fresh_base(method, where, dtype=torch.float32):
    """The base as a run would load it for `method`."""
    quantization = method.quantization(where)
    if quantization is not None:
        return load_model(where.base_folder, dtype=dtype, quantization_config=quantization)
    return base_model(where.base_folder, dtype)


def build(name, *, model_type=None, dtype="float32", seed=0, **settings):
    """(method, model that learns, context); settings are the case's, changed by `settings`."""
    case = CASES[name]
    folder = base_folder(model_type or case.model_type)
    method = methods.find(name).from_values({**case.settings, **settings})
    where = context(folder, dtype=dtype)
    method.check(where)
    base = fresh_base(method, where, getattr(torch, dtype))
    set_seed(seed)
    return method, method.prepare(base, where), where


def exported(method, model, where, folder: Path) -> Path:
    """The result in a new folder below `folder`."""
    target = Path(mkdtemp(dir=folder))
    method.export(model, target, where)
    return target


def with_peft(method, where, folder, base=None, **options):
    """The result in `folder` as plain PEFT loads it onto the untouched base."""
    if method.tuner_module:
        importlib.import_module(method.tuner_module)
    base = fresh_base(method, where) if base is None else base
    return PeftModel.from_pretrained(base, folder, **options).eval()


def logits(model):
    """Of the text's positions; soft prompts' own are left out."""
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits[:, -IDS.shape[1] :]


def disturb(model, seed=1, size=0.05):
    """As if trained: every weight that learns moves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)


def gradients(model):
    """Of the loss of one batch, by name, as far as they are in `.grad`."""
    model.train()
    model.zero_grad()
    set_seed(3)
    model(input_ids=IDS, labels=LABELS, use_cache=False).loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }


def double_layer(name, end="v_proj", dtype=torch.float64, **settings):
    """One layer [out, in] of the first block as `name` makes it, all in float64."""
    method = methods.find(name).from_values({**CASES[name].settings, **settings})
    folder = base_folder("llama")
    set_seed(0)
    model = method.prepare(base_model(folder).to(dtype), context(folder))
    path = next(p for p, m in model.named_modules() if p.endswith(f"0.self_attn.{end}"))
    return model.get_submodule(path)


def random_factors(layer, seed=0):
    """A and B of the LoRA layer, set to random numbers as if trained."""
    generator = torch.Generator().manual_seed(seed)
    pair = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        for weight in pair:
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * 0.3)
    return pair


def counted(name, config, **settings):
    """Trainable parameters of `name` on a model of that configuration, made without weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        model = methods.find(name).from_values(settings).prepare(model, context(Path()))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
