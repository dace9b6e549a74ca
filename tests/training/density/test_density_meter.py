"""Hooks on the MLPs of models: where they look, what they count, and that nothing stays."""

import pytest
import torch
from method_helpers import base_folder, base_model
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from gossamer.basemodel.versions import enable_checkpointing
from gossamer.errors import TrainingError, UnsupportedModelError
from gossamer.methods.meft.model import MeftConfig
from gossamer.methods.sherl.model import SherlConfig
from gossamer.training.density.meter import DensityMeter, density_meter
from gossamer.training.density.settings import DensitySettings
from gossamer.training.density.sites import find_sites

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
TOKENS = torch.tensor([[True] * 4, [True, True, False, False]])
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}


def batch():
    return {"input_ids": IDS, "attention_mask": TOKENS.long(), "labels": IDS}


def lora_model(**options):
    model = get_peft_model(
        base_model(base_folder("llama")), LoraConfig(target_modules="all-linear", **options)
    )
    return model.train()


def by_hand(model, of):
    """The activations of each layer, [rows, tokens, channels], computed from the layers' inputs."""
    inputs, hooks = [], []
    for layer in model.get_base_model().model.layers:
        hooks.append(layer.mlp.register_forward_pre_hook(lambda m, args: inputs.append(args[0])))
    model(**batch())
    for hook in hooks:
        hook.remove()
    found = []
    for layer, x in zip(model.get_base_model().model.layers, inputs, strict=True):
        gate = torch.nn.functional.silu(layer.mlp.gate_proj(x))
        found.append(gate if of == "gate" else gate * layer.mlp.up_proj(x))
    return found


@pytest.mark.parametrize("of", ["gate", "product"])
def test_loss_and_density_are_the_means_of_the_layers(of):
    model = lora_model()
    settings = DensitySettings(
        density_loss=2.0, density_epsilon=1e-2, density_of=of, density_threshold=0.05
    )
    with density_meter(settings, model) as meter:
        with meter.watching(TOKENS):
            model(**batch())
        loss, figures = meter.loss(), meter.take()
    layers = [a[TOKENS] for a in by_hand(model, of)]
    terms = [(a**2 / (a**2 + 1e-2)).mean() for a in layers]
    assert loss.item() == pytest.approx(2 * torch.stack(terms).mean().item(), rel=1e-5)
    assert figures["density_term"] == pytest.approx(loss.item() / 2, abs=1e-6)
    shares = [(a.abs() > 0.05).double().mean().item() for a in layers]
    assert figures["density"] == pytest.approx(sum(shares) / len(shares), abs=1e-6)
    assert meter.take() == {}


def test_only_the_adapter_gets_gradients():
    model = lora_model()
    with density_meter(DensitySettings(density_loss=1.0), model) as meter:
        with meter.watching(TOKENS):
            model(**batch())
        meter.loss().backward()
    having = {name for name, p in model.named_parameters() if p.grad is not None}
    assert having
    assert all("lora_" in name for name in having)


def gradients(model, settings, passes=1):
    model.zero_grad()
    with density_meter(settings, model) as meter:
        for _ in range(passes):
            with meter.watching(TOKENS):
                loss = model(**batch()).loss
            (loss + meter.loss()).backward()
        assert len(meter.take()) == 2
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_layers_without_a_backward_pass_are_constants_in_the_mean_of_all():
    """SHERL's early layers compute without a graph: the gradient is that of the late terms."""
    model = get_peft_model(base_model(base_folder("llama")), SherlConfig(late_layers=1)).train()
    settings = DensitySettings(density_loss=2.0, density_epsilon=1e-2)
    with density_meter(settings, model) as meter:
        with meter.watching(TOKENS):
            model(**batch())
        loss, figures = meter.loss(), meter.take()
        loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    terms = [(a**2 / (a**2 + 1e-2)).mean() for a in (a[TOKENS] for a in by_hand(model, "gate"))]
    assert [term.requires_grad for term in terms] == [False, False, True]
    assert loss.item() == pytest.approx(2 * sum(term.item() for term in terms) / 3, rel=1e-5)
    assert figures["density_term"] == pytest.approx(loss.item() / 2, abs=1e-6)
    model.zero_grad()
    (2 * terms[-1] / 3).backward()
    assert found
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_a_layer_that_is_computed_again_with_a_graph_is_refused_not_left_out():
    config = MeftConfig(width=4, reversible_layers=2)
    model = get_peft_model(base_model(base_folder("llama")), config).train()
    with density_meter(DensitySettings(density_loss=1.0), model) as meter:
        with meter.watching(TOKENS):
            loss = model(**batch()).loss
        with pytest.raises(TrainingError, match=r"mlp\.act_fn is computed without"):
            (loss + meter.loss()).backward()


@pytest.mark.parametrize("of", ["gate", "product"])
def test_gradient_checkpointing_counts_once(of):
    """Layers are computed twice then; gradients stay those of the plain model, pass after pass."""
    model = lora_model()
    # So that B has no zeros, and A gets gradients.
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    settings = DensitySettings(density_loss=3.0, density_epsilon=1e-2, density_of=of)
    plain = gradients(model, settings, passes=2)
    without = gradients(model, DensitySettings(density_loss=1e-9, density_of=of), passes=2)
    enable_checkpointing(model, {"use_reentrant": False})
    model.enable_input_require_grads()
    sparing = gradients(model, settings, passes=2)
    assert plain.keys() == sparing.keys()
    for name in plain:
        torch.testing.assert_close(sparing[name], plain[name], rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(plain[n], without[n], rtol=1e-2) for n in plain)


def test_checkpointing_that_hides_the_graph_is_refused_not_ignored():
    model = lora_model()
    enable_checkpointing(model, {"use_reentrant": True})
    model.enable_input_require_grads()
    with density_meter(DensitySettings(density_loss=1.0), model) as meter:
        with meter.watching(TOKENS):
            model(**batch())
        with pytest.raises(TrainingError, match="no activation of an MLP depends on a weight"):
            meter.loss()


def test_what_learns_behind_the_last_activation_is_refused():
    model = lora_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.2.mlp.down_proj.lora_" in name)
    with density_meter(DensitySettings(density_loss=1.0), model) as meter:
        with meter.watching(TOKENS):
            model(**batch())
        with pytest.raises(TrainingError, match="no activation of an MLP"):
            meter.loss()


def test_a_second_pass_of_a_reference_does_not_count():
    model = lora_model()
    with density_meter(DensitySettings(density_loss=1.0), model) as meter:
        with meter.watching(TOKENS):
            model(**batch())
            with torch.no_grad(), model.disable_adapter():
                model(input_ids=IDS.flip(1))
        twice = meter.take()
        with meter.watching(TOKENS):
            model(**batch())
        assert meter.take() == twice


def test_no_hook_stays():
    model = lora_model()
    with density_meter(DensitySettings(density_loss=1.0), model):
        assert any(m._forward_hooks for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_evaluation_keeps_no_graph():
    model = lora_model().eval()
    with density_meter(DensitySettings(density_loss=1.0), model) as meter:
        with torch.no_grad(), meter.watching(TOKENS):
            model(**batch())
            assert meter.loss() is None
        assert set(meter.take()) == {"density"}


FAMILIES = {
    "llama": {"intermediate_size": 24},
    "qwen2": {"intermediate_size": 24, "num_key_value_heads": 2},
    "gemma2": {"intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 8},
    "phi3": {"intermediate_size": 24, "pad_token_id": 0},
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 24},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "phi": {"intermediate_size": 24},
}


@pytest.mark.parametrize("of", ["gate", "product"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, of):
    config = AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family]})
    model = AutoModelForCausalLM.from_config(config).eval()
    assert len(find_sites(model, of)) == SMALL["num_hidden_layers"]
    settings = DensitySettings(density_loss=0.0, density_of=of)
    with density_meter(settings, model) as meter:
        with torch.no_grad(), meter.watching(TOKENS):
            model(input_ids=IDS, attention_mask=TOKENS.long())
        assert meter.threshold() == (0 if family == "opt" else pytest.approx(1e-7**0.5))
        assert 0 < meter.take()["density"] <= 1


def test_experts_are_refused():
    config = AutoConfig.for_model(
        "mixtral", **SMALL, intermediate_size=24, num_key_value_heads=2, num_local_experts=2
    )
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedModelError, match="see a part of the tokens each"):
        find_sites(model, "gate")


def test_a_model_that_computes_its_mlps_by_other_code_is_refused():
    model = lora_model()
    for layer in model.get_base_model().model.layers:
        layer.mlp.forward = lambda x: x
    meter = DensityMeter(DensitySettings(density_loss=1.0))
    meter.attach(model)
    with (
        pytest.raises(UnsupportedModelError, match=r"mlp\.act_fn was not called"),
        meter.watching(TOKENS),
    ):
        model(**batch())
