"""Every registered method through the same questions; `cases.py` says what is expected of each."""

import contextlib

import pytest
import torch
from cases import CASES, SAME
from method_helpers import (
    base_folder,
    base_model,
    build,
    context,
    disturb,
    exported,
    fresh_base,
    gradients,
    logits,
    with_peft,
)
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, set_seed

from gossamer import methods
from gossamer.basemodel.load import load_model
from gossamer.basemodel.versions import enable_checkpointing
from gossamer.errors import GossamerError, SettingError
from gossamer.training.loop.device import count_parameters

from tiny import module_shapes

NAMES = methods.names()
ADAPTERS = [name for name in NAMES if methods.find(name).kind != "model"]
SOFT = [name for name in NAMES if methods.find(name).kind == "prefix"]


@pytest.fixture(autouse=True)
def _extras(request):
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    for module in methods.find(name).extra_modules if name else ():
        pytest.importorskip(module)


def test_every_method_has_an_entry():
    assert set(CASES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_where_it_starts(name):
    method, model, where = build(name)
    start, base = logits(model), logits(fresh_base(method, where))
    assert torch.allclose(start, base, atol=1e-4) == CASES[name].starts_as_base
    disturb(model)
    assert not torch.allclose(logits(model), start, atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_what_learns_and_how_many(name):
    _, model, where = build(name)
    case = CASES[name]
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in learning.values()) == case.count(module_shapes(where.base_folder))
    assert not [n for n in learning if not any(mark in n for mark in case.learns)]
    found = gradients(model)
    if not case.own_gradients:
        assert found.keys() == learning.keys()
        assert any(gradient.abs().sum() > 0 for gradient in found.values())
    assert not [n for n, p in model.named_parameters() if p.grad is not None and n not in learning]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_counted_without_weights(name):
    """As the dry run does: on the meta device, where nothing can be looked at."""
    case = CASES[name]
    folder = base_folder(case.model_type)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        model = methods.find(name).from_values(case.settings).prepare(model, context(folder))
    assert count_parameters(model)[0] == case.count(module_shapes(folder))


@pytest.mark.parametrize("name", NAMES)
def test_the_result_loads_elsewhere(name, tmp_path):
    """Plain PEFT (plain transformers for whole models) gives the same logits, twice over."""
    method, model, where = build(name)
    disturb(model)
    folder = exported(method, model, where, tmp_path)
    if method.kind == "model":
        again = AutoModelForCausalLM.from_pretrained(folder)
    else:
        again = with_peft(method, where, folder)
    difference = (logits(again) - logits(model)).abs().max().item()
    assert difference <= CASES[name].tolerance
    if method.kind != "model":
        again.save_pretrained(tmp_path / "again", save_embedding_layers=False)
        twice = with_peft(method, where, tmp_path / "again")
        assert torch.equal(logits(twice), logits(again))


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_brings_everything_back(name, tmp_path):
    method, model, where = build(name)
    disturb(model)
    method.save(model, tmp_path, where)
    expected, learnt = logits(model), {n: p for n, p in model.named_parameters() if p.requires_grad}
    method, model, _ = build(name, seed=7)
    method.restore(model, tmp_path)
    now = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert now.keys() == learnt.keys()
    # Markers that tell such methods' optimizers apart carry nothing.
    kept = [n for n in learnt if not (CASES[name].own_gradients and n.endswith("marker"))]
    assert all(torch.equal(now[n], learnt[n]) for n in kept)
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("name", ADAPTERS)
def test_merging(name, tmp_path):
    method, model, where = build(name)
    disturb(model)
    # In full precision: PEFT merges into 4 bits by rounding again.
    base, folder = base_model(where.base_folder), exported(method, model, where, tmp_path)
    loaded = with_peft(method, where, folder, base)
    expected, case = logits(loaded), CASES[name]
    if case.merge != SAME:
        # PEFT's own soft prompts know no merge at all.
        with pytest.raises((GossamerError, AttributeError, ValueError)) as refusal:
            loaded.merge_adapter()
        if isinstance(refusal.value, GossamerError):
            assert case.merge in str(refusal.value)
        assert torch.equal(logits(loaded), expected)
        return
    loaded.merge_adapter()
    assert torch.allclose(logits(loaded), expected, atol=1e-4)
    warning = case.unmerge_warning
    with pytest.warns(UserWarning, match=warning) if warning else contextlib.nullcontext():
        loaded.unmerge_adapter()
    assert torch.allclose(logits(loaded), expected, atol=1e-4)
    merged = loaded.merge_and_unload()
    assert not [n for n, _ in merged.named_modules() if "base_layer" in n]
    assert torch.allclose(logits(merged), expected, atol=1e-4)


@pytest.mark.parametrize("name", ADAPTERS)
def test_disabling_gives_the_base(name, tmp_path):
    method, model, where = build(name)
    disturb(model)
    loaded = with_peft(method, where, exported(method, model, where, tmp_path))
    base, expected = logits(fresh_base(method, where)), logits(loaded)
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded), base)
    assert torch.equal(logits(loaded), expected)


@pytest.mark.parametrize("name", ADAPTERS)
def test_two_adapters_on_one_base(name, tmp_path):
    method, model, where = build(name)
    disturb(model)
    one = exported(method, model, where, tmp_path)
    disturb(model, seed=2)
    two = exported(method, model, where, tmp_path)
    first, second = (logits(with_peft(method, where, folder)) for folder in (one, two))
    assert not torch.allclose(first, second, atol=1e-3)
    loaded = with_peft(method, where, one, adapter_name="one")
    loaded.load_adapter(two, "two")
    for turn, expected in (("two", second), ("one", first), ("two", second)):
        loaded.set_adapter(turn)
        assert torch.equal(logits(loaded), expected), turn


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing(name):
    method, model, where = build(name)
    case = CASES[name]
    if case.checkpointing != SAME:
        with pytest.raises(SettingError, match=case.checkpointing):
            method.check(context(where.base_folder, gradient_checkpointing=True))
        return
    disturb(model)
    plain = gradients(model)
    whole = model if method.kind == "model" else model.get_base_model()
    enable_checkpointing(whole)
    assert any(getattr(module, "gradient_checkpointing", False) for module in whole.modules())
    sparing = gradients(model)
    for parameter in plain:
        assert torch.allclose(sparing[parameter], plain[parameter], rtol=1e-4, atol=1e-6), parameter


@pytest.mark.parametrize("name", ["shira", "smt", "sparse_lora", "sparsegrad"])
def test_what_learns_is_chosen_with_as_little_memory_as_the_run_has(name):
    passes = []

    def chosen(**changes):
        settings = {"mask": "gradient"} if name == "shira" else {}
        method = methods.find(name).from_values({**CASES[name].settings, **settings})
        where = context(base_folder("llama"), **changes)
        model = base_model(where.base_folder)
        block = next(each for path, each in model.named_modules() if path.endswith("1.mlp"))
        watch = block.register_forward_pre_hook(lambda *_: passes.append(changes))
        set_seed(0)
        state = method.prepare(model, where).state_dict()
        watch.remove()
        return state

    plain, sparing = chosen(), chosen(gradient_checkpointing=True)
    assert passes.count({"gradient_checkpointing": True}) == 2 * passes.count({}) > 0
    assert plain.keys() == sparing.keys()
    assert all(torch.allclose(plain[key], sparing[key], atol=1e-5) for key in plain)


@pytest.mark.parametrize("name", ADAPTERS)
def test_bfloat16(name, tmp_path):
    """What learns stays in float32, gradients are finite, and the result loads."""
    method, model, where = build(name, dtype="bfloat16")
    learning = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in learning} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(model)
    assert all(gradient.isfinite().all() for gradient in found.values())
    disturb(model)
    base = fresh_base(method, where, torch.bfloat16)
    loaded = with_peft(method, where, exported(method, model, where, tmp_path), base)
    with torch.autocast("cpu", torch.bfloat16):
        expected, again = logits(model).float(), logits(loaded).float()
    # Results that are written another way round differently, in eight bits.
    assert (again - expected).abs().mean() < 0.1 * expected.std()


@pytest.mark.parametrize("name", NAMES)
def test_a_base_in_four_bits(name):
    """Learns on it, or says why not."""
    pytest.importorskip("bitsandbytes")
    case = CASES[name]
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    folder = base_folder(case.model_type)
    base = load_model(folder, dtype=torch.float32, quantization_config=config)
    base.requires_grad_(False)
    method = methods.find(name).from_values(case.settings)
    if case.four_bit != SAME:
        with pytest.raises(SettingError, match=case.four_bit):
            method.prepare(base, context(folder))
        return
    model = method.prepare(base, context(folder))
    assert any(gradient.abs().sum() > 0 for gradient in gradients(model).values())


WRONG = [(name, values, reason) for name in CASES for values, reason in CASES[name].wrong]


@pytest.mark.parametrize(("name", "values", "reason"), WRONG)
def test_wrong_settings_are_refused_with_the_reason(name, values, reason):
    with pytest.raises(SettingError) as refusal:
        build(name, **values)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_settings_are_refused(name):
    with pytest.raises(SettingError, match=f"method '{name}': unknown setting 'nonsense'"):
        methods.find(name).from_values({"nonsense": 1})


def test_bitfit_needs_biases():
    with pytest.raises(SettingError, match="of this llama model has a bias"):
        build("bitfit", model_type="llama")


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - {"bitfit"}))
def test_other_families_come_back_as_well(name, family, tmp_path):
    """The Qwen shape has biases on its query, key and value layers."""
    method, model, where = build(name, model_type=family)
    if CASES[name].starts_as_base:
        assert torch.allclose(logits(model), logits(fresh_base(method, where)), atol=1e-4)
    disturb(model)
    loaded = with_peft(method, where, exported(method, model, where, tmp_path))
    assert torch.allclose(logits(loaded), logits(model), atol=1e-4)
    if CASES[name].merge == SAME and method.quantization(where) is None:
        assert torch.allclose(logits(loaded.merge_and_unload()), logits(model), atol=1e-4)


def test_base_models_are_not_shared_between_tests():
    folder = base_folder("llama")
    assert base_model(folder) is not base_model(folder)
