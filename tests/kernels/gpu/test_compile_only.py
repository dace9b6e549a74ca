"""Operations at Llama-3-8B's shapes on tensors without data: what they would launch, compiled."""

import pytest
from launches.compiled import NotCompilable, compiled


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    """Of all operations, for an H100, from one process."""
    names = ["grouped_lora", "sparse_delta", "attention_decode", "gate", "input_gain"]
    return compiled(names, tmp_path_factory.mktemp("cache"), torch_too=True)


def test_grouped_lora_takes_two_launches(launches):
    shrink, expand = launches["grouped_lora"]
    assert (shrink["name"], shrink["grid"]) == ("shrink_kernel", [64, 4, 3])
    assert (expand["name"], expand["grid"]) == ("expand_kernel", [24, 64])
    assert shrink["tensors"]["x"] == ["torch.bfloat16", [64, 4096]]
    # All that a graph freezes depends on the bucket alone: 128 scratch rows of three modules.
    assert shrink["ints"] == {"x_stride": 4096, "v_slab_stride": 128 * 768, "v_row_stride": 768}
    assert shrink["code"]["loads"]["cp.async.16"] >= 2


def test_the_others_take_one_launch_for_each_part(launches):
    assert [launch["name"] for launch in launches["sparse_delta"]] == ["sparse_kernel"]
    assert [launch["name"] for launch in launches["attention_decode"]] == [
        "write_kv_kernel", "decode_kernel", "merge_kernel",
    ]  # fmt: skip
    assert [launch["name"] for launch in launches["gate"]] == ["gate_kernel"]
    assert [launch["name"] for launch in launches["input_gain"]] == ["scale_inputs_kernel"]


def test_nothing_spills(launches):
    codes = [launch["code"] for of in launches.values() for launch in of]
    assert len(codes) == 8
    assert all(code["spills"] == 0 and 0 < code["registers"] <= 255 for code in codes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("tables_of_the_host", "scale_inputs_kernel gets 'token_table' on cpu, not on meta"),
        ("asks_for_a_value", "cannot be called on meta tensors"),
    ],
)
def test_mistakes_are_seen(body, message, tmp_path):
    with pytest.raises(NotCompilable, match=message):
        compiled([body], tmp_path)
