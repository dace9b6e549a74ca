"""SHERL written out slowly, token by token, and models for its tests."""

import torch
from method_helpers import base_folder, base_model
from peft import get_peft_model

from gossamer.methods.sherl.model import SherlConfig


def sherl(*, dtype=torch.float32, seed=0, folder=None, size=0.3, **settings):
    """A tiny tuned model whose side network changes the output plainly, in evaluation mode."""
    torch.manual_seed(seed)
    base = base_model(folder or base_folder("llama"), torch.float32).to(dtype)
    config = SherlConfig(task_type="CAUSAL_LM", **{"late_layers": 1, **settings})
    model = get_peft_model(base, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape).to(parameter)
    return model.eval()


def side_of(model):
    """The side network, and the block that it stands behind."""
    return next(
        (block.sherl_side["default"], block)
        for block in model.get_base_model().model.layers
        if "default" in getattr(block, "sherl_side", {})
    )


def tokens(rows=2, length=14, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 200, (rows, length), generator=generator)


def slow_feature(side, form, k, f):
    """p_k of one token's state f [d]."""

    def layer(name, x):
        return linear(getattr(side, f"{name}_weight")[k], getattr(side, f"{name}_bias")[k], x)

    if form == "linear":
        return layer("fc1", relu(f))
    x = layer("fc1", f)
    if form == "layer_norm":
        centred = x - x.mean()
        scale = (centred.pow(2).mean() + 1e-5).sqrt()
        return centred / scale * side.layernorm_weight[k] + side.layernorm_bias[k]
    x = relu(x)
    return (layer("fc2", x) + x) / (1 + torch.exp(-layer("fc3", x)))


def slow_weights(features, guide, attend, bias):
    """w_k of one token: `features` K of [h]."""
    scores = []
    for p in features:
        alike = 0.0
        for other in features:
            lengths = (length(p) + 1e-6) * (length(other) + 1e-6)
            alike = alike + relu((p * other).sum() / lengths)
        scores.append(relu((attend * (p * guide)).sum() + bias) / alike)
    return [score / (sum(scores) + 1e-6) for score in scores]


def slow_token(side, form, states):
    """o of one token's states f_0 ... f_K, each [d]."""
    *shallow, guide = [slow_feature(side, form, k, f) for k, f in enumerate(states)]
    shares = slow_weights(shallow, guide, side.attn_weight[0], side.attn_bias[0])
    mixed = sum(share * p for share, p in zip(shares, shallow, strict=True)) + guide
    gate = 1.0
    if side.gamma is not None:
        gate = 1 - 2 / (torch.exp(2 * side.gamma / 0.1) + 1)
    return linear(side.out_weight, side.out_bias, relu(mixed)) + gate * states[-1]


def slow_side(side, form, states):
    """o [batch, q, d] of states [batch, q, d], one token after the other."""
    rows = [
        torch.stack(
            [slow_token(side, form, [f[row, column] for f in states]) for column in range(columns)]
        )
        for row, columns in [(row, states[0].shape[1]) for row in range(states[0].shape[0])]
    ]
    return torch.stack(rows)


def linear(weight, bias, x):
    return (weight * x).sum(-1) + bias


def relu(x):
    return x * (x > 0)


def length(x):
    return x.pow(2).sum().sqrt()
