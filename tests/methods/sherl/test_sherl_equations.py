"""The side network against its equations, in float64."""

import re

import pytest
import torch
from peft import get_peft_model
from sherl_case import slow_side, slow_weights
from transformers import AutoConfig, AutoModelForCausalLM

from gossamer.errors import SettingError
from gossamer.kernels.trained_parts.side_equations import aggregate, redundancy, weights
from gossamer.methods.sherl.config import spread
from gossamer.methods.sherl.model import SherlConfig
from gossamer.methods.sherl.side import SideNetwork

FORMS = ("gated", "layer_norm", "linear")


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def side_network(form="gated", *, gated=True, taps=4, seed=0):
    torch.manual_seed(seed)
    side = SideNetwork(20, 6, taps, form=form, gated=gated).double()
    with torch.no_grad():
        for parameter in side.parameters():
            parameter += 0.3 * random(*parameter.shape, seed=seed)
    return side


def test_features_that_are_all_the_same_are_as_redundant_as_there_are():
    same = random(5, 1, 8).expand(5, 7, 8)
    assert torch.allclose(redundancy(same), torch.full((5, 7), 7.0).double(), atol=1e-4)
    guide, attend, bias = random(5, 8, seed=1), random(8, seed=2), random(1, seed=3)
    shares = weights(same, guide, attend, bias)
    # Whatever the redundancy, they share alike, or are all shut off together.
    on = ((same[:, 0] * guide) @ attend + bias) > 0
    assert on.any()
    assert not on.all()
    assert torch.allclose(shares, on[:, None].double() / 7, atol=1e-4)


def test_features_at_right_angles_are_not_redundant():
    turned = torch.linalg.qr(random(8, 8)).Q * torch.arange(1.0, 9.0).double()[:, None]
    assert torch.allclose(redundancy(turned[:5]), torch.ones(5).double(), atol=1e-5)
    # Features that point away from each other are no more alike than that.
    assert torch.allclose(redundancy(torch.stack((turned[0], -turned[0]))), torch.ones(2).double())


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_shares(seed):
    features, guide = random(50, 5, 8, seed=seed), random(50, 8, seed=seed + 10)
    shares = weights(features, guide, random(8, seed=seed + 20), random(1, seed=seed + 30))
    assert (shares >= 0).all()
    total = shares.sum(-1)
    none = total == 0
    assert torch.allclose(total[~none], torch.ones_like(total[~none]), atol=1e-4)
    assert (shares == 0).any()
    shut = weights(features, guide, torch.zeros(8).double(), -torch.ones(1).double())
    assert torch.equal(shut, torch.zeros_like(shut))
    assert torch.equal(
        aggregate(features, guide, torch.zeros(8).double(), -torch.ones(1).double()), guide
    )


def test_weights_are_those_of_one_token_after_the_other():
    features, guide = random(9, 5, 8), random(9, 8, seed=1)
    attend, bias = random(8, seed=2), random(1, seed=3)
    fast = weights(features, guide, attend, bias)
    slow = [slow_weights(list(p), q, attend, bias[0]) for p, q in zip(features, guide, strict=True)]
    assert torch.allclose(fast, torch.tensor(slow).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_of_zeros_divide_by_no_zero(dtype):
    """Their gradient is a number as well."""
    features = random(3, 4, 8).to(dtype)
    features[0], features[1, 2], features[2] = 0, 0, features[2] * 1e-12
    features.requires_grad_()
    guide, attend, bias = torch.ones(3, 8, dtype=dtype), torch.ones(8, dtype=dtype), None
    for sign in (1.0, -1.0):
        bias = torch.full((1,), sign, dtype=dtype)
        mixed = aggregate(features, guide, attend, bias)
        assert mixed.isfinite().all()
        features.grad = None
        mixed.square().sum().backward()
        assert features.grad.isfinite().all()


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_output_and_gradients_are_those_of_the_slow_version(form, gated):
    side = side_network(form, gated=gated)
    states = [random(2, 3, 20, seed=seed).requires_grad_() for seed in range(4)]
    learning = [*side.parameters(), *states]
    fast, slow = side(states), slow_side(side, form, states)
    assert torch.allclose(fast, slow, rtol=0, atol=1e-12)
    direction = random(2, 3, 20, seed=9)
    found = torch.autograd.grad((fast * direction).sum(), learning)
    expected = torch.autograd.grad((slow * direction).sum(), learning)
    assert all(
        torch.allclose(one, other, rtol=1e-9, atol=1e-11)
        for one, other in zip(found, expected, strict=True)
    )
    assert all(gradient.abs().sum() > 0 for gradient in found)


def test_with_the_gate_shut_the_last_state_goes_on_through_its_adapter_alone():
    side = side_network()
    states = [random(1, 2, 20, seed=seed) for seed in range(4)]
    with torch.no_grad():
        side.gamma.zero_()
        shut = side(states)
        # The adapter of the last state is made blind; what is left of it would be the skip.
        side.fc1_weight[-1].zero_()
        blind = side(states)
        moved = [*states[:-1], random(1, 2, 20, seed=99)]
        assert torch.equal(side(moved), blind)
        side.gamma.fill_(0.05)
        assert torch.allclose(side(moved) - blind, torch.tanh(torch.tensor(0.5)) * moved[-1])
    assert not torch.allclose(shut, blind)


def test_where_it_starts():
    """With the last state in full: as if it were not there. With the gate: nothing of it."""
    torch.manual_seed(0)
    states = [random(2, 3, 20, seed=seed).float() for seed in range(4)]
    whole = SideNetwork(20, 6, 4, form="gated", gated=False)
    assert torch.equal(whole(states), states[-1])
    gated = SideNetwork(20, 6, 4, form="gated", gated=True)
    assert gated.gamma.item() == 0
    assert not torch.allclose(gated(states), states[-1], atol=0.1)


def formula(d, h, taps, *, gated):
    """(K + 1) (d h + h + 2 (h^2 + h)) + (h + 1) + (h d + d), and 1 for the gate."""
    return taps * (d * h + h + 2 * (h * h + h)) + (h + 1) + (h * d + d) + gated


def test_a_side_network_at_the_shape_of_t5_has_as_many_weights_as_the_formula_says():
    side = SideNetwork(768, 768 // 4, 10, form="gated", gated=True)
    count = sum(p.numel() for p in side.parameters())
    assert count == formula(768, 192, 10, gated=True) == 2_366_018


@pytest.mark.parametrize("skip", ["gated", "whole"])
@pytest.mark.parametrize("taps", [2, 5, 99])
def test_what_learns_in_a_model_is_the_side_network(skip, taps):
    shape = {
        "hidden_size": 64,
        "intermediate_size": 8,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "vocab_size": 16,
    }
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape))
        config = SherlConfig(late_layers=2, taps=taps, reduction=8, skip=skip)
        model = get_peft_model(model, config)
    learning = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert all(".layers.9.sherl_side.default." in name for name in learning)
    states = min(taps, 11)
    assert sum(learning.values()) == formula(64, 8, states, gated=skip == "gated")


@pytest.mark.parametrize(
    ("early", "taps", "blocks"),
    [
        (27, 2, {26}),
        (27, 10, {2, 5, 8, 11, 14, 17, 20, 23, 26}),
        (4, 3, {1, 3}),
        (4, 5, {0, 1, 2, 3}),
        (4, 50, {0, 1, 2, 3}),
        (1, 10, {0}),
    ],
)
def test_states_are_read_at_even_distances(early, taps, blocks):
    assert spread(early, taps) == blocks


@pytest.mark.parametrize(("blocks", "late"), [(2, 1), (3, 1), (12, 3), (30, 8), (32, 8)])
def test_a_quarter_of_the_blocks_is_late_where_nothing_is_said(blocks, late):
    config = SherlConfig()
    config.set_places("model.layers", blocks)
    assert (config.late_layers, config.last) == (late, blocks - late - 1)
    assert re.fullmatch(config.target_modules, f"model.layers.{config.last}")
    assert not re.fullmatch(config.target_modules, f"model.layers.{config.last + 1}")
    # A second use, as of a file, changes nothing.
    again = SherlConfig(late_layers=late, layers=config.layers)
    again.set_places("model.layers", blocks)
    assert again.layers == config.layers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"late_layers": -1}, "late_layers = -1: must be at least 0"),
        ({"taps": 1}, "taps = 1: must be at least 2"),
        ({"reduction": 0}, "reduction = 0"),
        ({"form": "mlp"}, "form 'mlp'; choose one of gated, layer_norm, linear"),
        ({"skip": "none"}, "skip 'none'; choose one of gated, whole"),
        ({"target_modules": ["q_proj"]}, "target_modules = .*; use late_layers, taps and layers"),
        ({"layers_to_transform": [0]}, "layers_to_transform = .*use late_layers"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(SettingError, match=message):
        SherlConfig(**fields)
