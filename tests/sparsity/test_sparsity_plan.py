"""Plans: published counts and FLOPs, files, and what is refused."""

import pytest
from sparse_case import tiny_base

from gossamer.errors import SettingError, UnknownNameError
from gossamer.sparsity import Shares, SparsityPlan, load_plan, published_plans, sparsify
from gossamer.sparsity.flops import WorkShape, lora_weights
from gossamer.sparsity.plan import by_layers, kept

SHAPES = {
    "llama2-7b": (32, 4096, 11008, 4096, 4096),
    "llama2-13b": (40, 5120, 13824, 5120, 5120),
    "llama3-8b": (32, 4096, 14336, 4096, 1024),
    "llama3.1-8b": (32, 4096, 14336, 4096, 1024),
}
ADAPTERS = {"llama2-7b": 33_554_432, "llama2-13b": 52_428_800, "llama3-8b": 27_262_976}
# Sequence length and learnt tokens of the published benchmarks; ratio by the model of FLOPs.
RATIOS = {
    "llama2-7b-csr": (512, 3, 0.652),
    "llama2-7b-math10k": (512, 128, 0.730),
    "llama2-7b-codefeedback": (1024, 512, 0.719),
    "llama2-13b-csr": (512, 3, 0.629),
    "llama2-13b-math10k": (512, 128, 0.699),
    "llama3-8b-csr": (512, 3, 0.670),
    "llama3-8b-math10k": (512, 128, 0.467),
    "llama3.1-8b-codefeedback": (1024, 512, 0.663),
    "llama3.1-8b-wizardlm": (2048, 512, 0.509),
    "llama3-8b-glue": (128, 3, 0.617),
}


def shape_of(name, adapter_weights=0):
    layers, hidden, mlp, queries, keys = SHAPES[name]
    return WorkShape(
        layers=layers,
        hidden=hidden,
        intermediate=mlp,
        query_channels=queries,
        key_channels=keys,
        adapter_weights=adapter_weights,
    )


@pytest.mark.parametrize("name", RATIOS)
def test_flops_of_published_plans(name):
    model = name.rsplit("-", 1)[0]
    length, outputs, expected = RATIOS[name]
    shape = shape_of(model)
    shape = shape_of(model, lora_weights(shape, 32, mlp=False))
    ratio = shape.run_share(load_plan(name), length=length, outputs=outputs)
    assert ratio == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_weights_of_published_plans(name):
    assert lora_weights(shape_of(name), 32, mlp=False) == ADAPTERS[name]


@pytest.mark.parametrize(
    ("channels", "share", "count"),
    [
        (14336, 0.50, 7168),
        (14336, 0.90, 1433),
        (14336, 0.95, 716),
        (14336, 0.97, 430),
        (14336, 0.99, 143),
        (11008, 0.90, 1100),
        (11008, 0.99, 110),
        (13824, 0.97, 414),
        (4096, 0.25, 3072),
        (4096, 0.50, 2048),
        (4096, 0.60, 1638),
        (5120, 0.20, 4096),
        (5120, 0.25, 3840),
        (1024, 0.20, 819),
        (1024, 0.40, 614),
        (1024, 0.75, 256),
    ],
)
def test_kept_channels_are_the_share_rounded(channels, share, count):
    assert kept(channels, share) == count


def test_published_plans_name_the_layers_of_the_release():
    plans = {name: load_plan(name) for name in published_plans()}
    assert len(plans) == 11
    assert all(plan.name == name for name, plan in plans.items())
    math = plans["llama3-8b-math10k"].all_shares(32)
    assert [layer for layer, shares in enumerate(math) if shares.mlp] == list(range(3, 31))
    attention = [layer for layer, shares in enumerate(math) if shares.qk]
    assert attention == [14, 15, 16, 17, 18, 19, 21, 22, 23, 25, 26, 27, 28, 29]
    assert math[14] == Shares(mlp=0.99, qk=0.75, vo=0.75)
    assert plans["llama3-8b-glue"].tokens == "all"
    assert plans["llama2-13b-csr"].start == 0.1


def test_a_plan_survives_its_file(tmp_path):
    plan = SparsityPlan(mlp={"0-2": 0.5, "4": 0.9}, qk={"1": 0.25}, vo={"1": 0.25}, start=3)
    path = tmp_path / "plan.yaml"
    path.write_text(plan.as_yaml())
    assert "attention" in path.read_text()
    assert load_plan(path) == plan
    assert by_layers([0.0, 0.5, 0.5, 0.9, 0.0, 0.5]) == {"1-2": 0.5, "3": 0.9, "5": 0.5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mlp: {0-2: 1.0}", r"below 1"),
        ("mlp: {0-2: -0.1}", r"at least 0"),
        ("mlp: {a-b: 0.5}", r"'a-b' is no layer or range of layers"),
        ("mlp: {3-1: 0.5}", r"'3-1' ends before it begins"),
        ("mlp: {0-2: 0.5, 2: 0.9}", r"layer 2 is named twice"),
        ("atention: {1: 0.5}", r"unknown setting 'atention'"),
        ("attention: {1: 0.5}\nqk: {1: 0.2}", r"attention sets both qk and vo"),
        ("- 1", r"must hold 'setting: value' lines"),
        ("mlp: {", r"cannot be read as YAML"),
    ],
)
def test_files_that_are_no_plan_are_refused(tmp_path, text, words):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(SettingError, match=words) as caught:
        load_plan(path)
    assert "\n" not in str(caught.value)


def test_names_that_are_no_plan_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'llama2-7b-csr'"):
        load_plan("llama2-7b-cs")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"mlp": {"7": 0.5}}, "there is no layer 7; the model has 0 to 2"),
        ({"num_layers": 32}, "is for a model of 32 layers; this one has 3"),
        ({"mlp": {"1": 0.999}}, "leaves none of the 100 channels of layer 1"),
        ({"start": 0.5}, "is a share of all steps: give total_steps"),
    ],
)
def test_plans_that_do_not_fit_are_refused_and_change_nothing(plan, words):
    model = tiny_base()
    with pytest.raises(SettingError, match=words):
        sparsify(model, SparsityPlan.parse({"start": 0, **plan}))
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
