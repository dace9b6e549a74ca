"""What PEFT writes, we read with PEFT's meaning; what we write, PEFT reads with ours."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, VeloraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from gossamer.adapters.load import load_adapter
from gossamer.adapters.merge import merge_into
from gossamer.adapters.write import write_low_rank
from gossamer.errors import UnsupportedAdapterError

from tiny import ALL_LINEAR, make_lora

IDS = torch.arange(3, 40).unsqueeze(0)


@pytest.fixture(autouse=True)
def one_thread():
    """Decompositions of tiny matrices take many times longer when threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def base(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


def saved(base, folder, **fields):
    """Save an adapter with random weights, as after some training, and load it again with PEFT.

    The loaded model is the standard, not the trained one: PEFT sorts the keys of the patterns when
    it saves, which decides between keys that match the same module.
    """
    trained(copy.deepcopy(base), **fields).save_pretrained(folder)
    return PeftModel.from_pretrained(base, folder).eval()


def trained(base, **fields):
    settings = {"r": 4, "lora_alpha": 6, "target_modules": list(ALL_LINEAR), **fields}
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            if "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
    return model.eval()


PLAIN = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"q_proj": 7, r"layers\.[02].*down_proj": 1},
        "alpha_pattern": {"self_attn.k_proj": 3, ".*layers.1.*": 11},
    },
    "patterns-that-are-expressions": {
        "rank_pattern": {
            "^model.layers.0.*_proj$": 2,
            r"(.*\.)?layers\.(1|2)\.self_attn\.(q|k)_proj": 6,
            ".*layers.[12].mlp.(?:up|gate).*": 3,
        },
        "alpha_pattern": {r"layers\.\d+\.mlp\.down_proj": 3, "[^.]*v_proj": 7},
    },
    "rslora-patterns": {"use_rslora": True, "rank_pattern": {"mlp.up_proj": 9}},
    "some-layers": {"layers_to_transform": [1], "target_modules": ["q_proj", "v_proj"]},
    "regex": {"target_modules": r".*layers\.[01]\.self_attn\.(q|o)_proj"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "velora": {"velora_config": VeloraConfig(num_groups=4)},
}


@pytest.mark.parametrize("case", PLAIN)
def test_factors_equal_pefts_delta(base, tmp_path, case):
    original = copy.deepcopy(base.state_dict())
    model = saved(base, tmp_path / "a", **PLAIN[case])
    factors = load_adapter(tmp_path / "a").factors
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert set(factors) == set(layers)
    for module, pair in factors.items():
        expected = layers[module].get_delta_weight("default")
        torch.testing.assert_close(pair.scale * pair.b @ pair.a, expected)
        base_weight = layers[module].get_base_layer().weight
        assert torch.equal(base_weight, original[f"{module}.weight"]), "the base must be untouched"


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_starts_that_change_the_base_are_refused_as_peft_writes_them(base, tmp_path, init):
    original = base.model.layers[0].self_attn.q_proj.weight.clone()
    model = trained(base, init_lora_weights=init)
    changed = model.base_model.model.model.layers[0].self_attn.q_proj.get_base_layer().weight
    assert not torch.allclose(changed, original), "otherwise there is nothing to refuse"
    model.save_pretrained(tmp_path / "a")
    with pytest.raises(UnsupportedAdapterError, match="init_lora_weights"):
        load_adapter(tmp_path / "a")


DORA = {
    "dora": {"use_dora": True},
    "dora-rslora-patterns": {
        "use_dora": True,
        "use_rslora": True,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"v_proj": 1},
    },
}


@pytest.mark.parametrize("case", [*PLAIN, *DORA])
def test_merging_equals_pefts(base, tiny_model, tmp_path, case):
    model = saved(base, tmp_path / "a", **{**PLAIN, **DORA}[case])
    theirs = model.merge_and_unload()
    ours = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    untouched = ours(IDS).logits
    merge_into(ours, tmp_path / "a")
    for (name, mine), expected in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5, msg=name)
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours(IDS).logits, untouched, atol=1e-2)


def test_what_we_write_peft_loads_and_computes_alike(base, tiny_model, tmp_path):
    source = make_lora(
        tmp_path / "source",
        tiny_model,
        rank=3,
        alpha=5,
        use_rslora=True,
        targets=("q_proj", "down_proj"),
        rank_pattern={"down_proj": 6},
    )
    loaded = load_adapter(source)
    expected = PeftModel.from_pretrained(copy.deepcopy(base), source)(IDS).logits
    derived = write_low_rank(tmp_path / "derived", loaded.factors)
    kept = write_low_rank(tmp_path / "kept", loaded.factors, loaded.spec)
    for folder in (derived, kept):
        again = PeftModel.from_pretrained(copy.deepcopy(base), folder)
        torch.testing.assert_close(again(IDS).logits, expected)


def test_every_lora_config_field_is_judged():
    """A new field of PEFT must be put into one of the two lists of `checks.py`."""
    from gossamer.adapters import checks

    fields = set(LoraConfig(task_type="CAUSAL_LM").to_dict())
    assert fields - checks._KNOWN - set(checks._REFUSED) == set()
