"""Whole steps of Llama-3-8B's shapes on tensors without data: every launch, compiled for an H100.

What needs a tensor's data, or mixes devices, raises on the way.
"""

from collections import Counter

import pytest
from launches.compiled import compiled

pytestmark = pytest.mark.slow

STEPS = ("base_decode", "lora_decode", "all_decode", "prefill")


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    """Of all steps with one layer and with two."""
    names = [f"{step}_{layers}" for step in STEPS for layers in (1, 2)]
    names += ["launch_greedy", "launch_mixed", "warm_up_of_a_server", "steps_of_many_sizes"]
    names.append("edited_prefill")
    return compiled(names, tmp_path_factory.mktemp("cache"), torch_too=True)


def of_a_layer(launches, step):
    """How often each launch comes in a layer more."""
    one, two = (
        Counter(launch["name"] for launch in launches[f"{step}_{layers}"]) for layers in (1, 2)
    )
    assert not one - two
    return two - one


ATTENTION = {"write_kv_kernel": 1, "decode_kernel": 1, "merge_kernel": 1}
BASE = {"linear": 4, "rms_norm": 2, "gate_kernel": 1}
ROTARY = {"mul": 4, "neg": 2, "cat": 2}


def test_a_layer_that_decodes_takes_22_launches(launches):
    found = of_a_layer(launches, "base_decode")
    # Two additions are the rotary embedding's, two those of what goes around the layer.
    assert found == {**ATTENTION, **BASE, **ROTARY, "add": 4}
    assert found.total() == 22


def test_adapters_take_two_launches_for_each_group(launches):
    found = of_a_layer(launches, "lora_decode") - of_a_layer(launches, "base_decode")
    assert found == {"shrink_kernel": 4, "expand_kernel": 4}
    rest = of_a_layer(launches, "all_decode") - of_a_layer(launches, "lora_decode")
    # The inputs of o_proj and down_proj are their own.
    assert rest == {"sparse_kernel": 4, "scale_inputs_kernel": 2}


def test_a_layer_of_a_mixed_step(launches):
    found = of_a_layer(launches, "prefill") - of_a_layer(launches, "lora_decode")
    assert found == {"prefill_kernel": 1}


def test_edits_take_two_launches_in_a_layer(launches):
    found = Counter(launch["name"] for launch in launches["edited_prefill"])
    assert (found["project_kernel"], found["add_kernel"]) == (1, 1)


def test_layers_share_their_compiled_kernels(launches):
    for step in STEPS:
        binaries = [
            {launch["binary"] for launch in launches[f"{step}_{layers}"]} for layers in (1, 2)
        ]
        # The pool's blocks of two layers are larger, which is a number, not another kernel.
        assert len(binaries[0] ^ binaries[1]) == 0, step


def test_nothing_is_computed_in_another_number_format(launches):
    for launch in launches["lora_decode_2"]:
        if launch["name"] in ("linear", "rms_norm", "add"):
            kinds = {kind for kind, _ in launch["tensors"].values()}
            assert kinds == {"torch.bfloat16"}, launch


def test_no_kernel_spills(launches):
    codes = {
        (launch["name"], launch["binary"]): launch["code"]
        for of in launches.values()
        for launch in of
        if launch["code"]
    }
    assert len(codes) >= 9
    assert {name: code["spills"] for (name, _), code in codes.items() if code["spills"]} == {}


def binaries(launches, body):
    return {(each["name"], each["binary"]) for each in launches[body] if each["binary"]}


def test_no_request_waits_for_a_kernel_to_be_compiled(launches):
    """Whatever the numbers of tokens, sequences and places are, kernels are those of the start."""
    met = binaries(launches, "steps_of_many_sizes")
    assert met - binaries(launches, "warm_up_of_a_server") == set()
    # Low-rank rows: for bundles of few and of many tokens; `down_proj` has inputs of its own.
    variants = {
        "shrink_kernel": 4, "expand_kernel": 4, "scale_inputs_kernel": 2, "sparse_kernel": 2,
    }  # fmt: skip
    assert all(n == variants.get(name, 1) for name, n in Counter(name for name, _ in met).items())


def test_tokens_are_chosen_without_waiting_for_the_device(launches):
    """That they were launched at all says so: a tensor without data cannot be waited for."""
    names = [launch["name"] for launch in launches["launch_greedy"]]
    assert names[-4:] == ["argmax", "gather", "isfinite", "where"]
    mixed = Counter(launch["name"] for launch in launches["launch_mixed"])
    assert mixed["topk"] >= 1
    assert mixed["log_softmax"] == 1
