"""An adapter that asks for more than it may is refused by its header: nothing large is read."""

import os

import pytest
import torch
from headed_files import adapter, file_of, write_config
from safetensors.torch import save, save_file

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.config import parse_lora, read_config
from gossamer.adapters.inspect import inspect
from gossamer.adapters.load import load_adapter
from gossamer.adapters.reading.budget import Budget
from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.adapters.reading.safetensors_file import read_safetensors
from gossamer.errors import (
    AdapterFormatError,
    AdapterReadError,
    BaseMismatchError,
    CapacityError,
    GossamerError,
    UnsupportedAdapterError,
)

PATH = "model.layers.0.self_attn.q_proj"
PREFIX = f"base_model.model.{PATH}"
BASE = BaseShape(
    linears={PATH: (64, 48)}, num_layers=2, hidden_size=48, num_kv_heads=2, head_dim=16
)
MIB = 1 << 20


@pytest.fixture
def reserved(monkeypatch):
    """Bytes of the largest tensor that was made."""
    most = [0]
    empty = torch.empty

    def noted(*sizes, **named):
        if len(sizes) == 1 and isinstance(sizes[0], int):
            most[0] = max(most[0], sizes[0])
            assert sizes[0] < 64 * MIB, "so much must not be read"
        return empty(*sizes, **named)

    monkeypatch.setattr(torch, "empty", noted)
    return most


REFT = {"peft_type": "GOSSAMER_REFT", "variant": "loreft"}
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 4}
GIB_OF_FLOATS = 1 << 28
TOO_LARGE_TO_FIT = {
    "nonsense": (LORA, {"base_model.model.x.lora_A.weight": ("F32", GIB_OF_FLOATS)}),
    "no partner": (LORA, {f"{PREFIX}.lora_A.weight": ("F32", 4, GIB_OF_FLOATS // 4)}),
    "wide": (
        LORA,
        {
            f"{PREFIX}.lora_A.weight": ("F32", 4, GIB_OF_FLOATS // 4),
            f"{PREFIX}.lora_B.weight": ("F32", 64, 4),
        },
    ),
    "wide magnitude": (
        {**LORA, "use_dora": True},
        {
            f"{PREFIX}.lora_A.weight": ("F32", 4, 48),
            f"{PREFIX}.lora_B.weight": ("F32", 64, 4),
            f"{PREFIX}.lora_magnitude_vector": ("F32", GIB_OF_FLOATS),
        },
    ),
    "dora of rank beyond the layer": (
        {**LORA, "use_dora": True, "r": 1 << 21},
        {
            f"{PREFIX}.lora_A.weight": ("F32", 1 << 21, 48),
            f"{PREFIX}.lora_B.weight": ("F32", 64, 1 << 21),
            f"{PREFIX}.lora_magnitude_vector": ("F32", 64),
        },
    ),
    "ia3": ({"peft_type": "IA3"}, {f"{PREFIX}.ia3_l": ("F32", GIB_OF_FLOATS, 1)}),
    "shira": (
        {"peft_type": "SHIRA"},
        {
            f"{PREFIX}.shira_indices": ("I64", 2, GIB_OF_FLOATS // 8),
            f"{PREFIX}.shira_weight": ("F32", GIB_OF_FLOATS // 8),
        },
    ),
    "smt": (
        {"peft_type": "GOSSAMER_SMT"},
        {
            f"{PREFIX}.smt_blocks": ("I64", GIB_OF_FLOATS // 8, 4),
            f"{PREFIX}.smt_values": ("F32", GIB_OF_FLOATS // 8),
        },
    ),
    "smt of many blocks": (
        {"peft_type": "GOSSAMER_SMT"},
        {
            f"{PREFIX}.smt_blocks": ("I64", GIB_OF_FLOATS // 8, 4),
            f"{PREFIX}.smt_values": ("F32", 64),
        },
    ),
    "reft": (
        {"peft_type": "GOSSAMER_REFT", "variant": "loreft"},
        {
            f"base_model.model.model.layers.0.reft_{part}": ("F32", *shape)
            for part, shape in {
                "rotate": (GIB_OF_FLOATS // 48, 48),
                "weight": (GIB_OF_FLOATS // 48, 48),
                "bias": (GIB_OF_FLOATS // 48,),
            }.items()
        },
    ),
    "prompt": (
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": GIB_OF_FLOATS // 40},
        {"prompt_embeddings": ("F32", GIB_OF_FLOATS // 40, 40)},
    ),
    "vera": ({"peft_type": "VERA"}, {f"{PREFIX}.vera_lambda_b": ("F32", GIB_OF_FLOATS)}),
}


@pytest.mark.parametrize("name", TOO_LARGE_TO_FIT)
def test_what_does_not_fit_the_base_is_not_read(tmp_path, reserved, name):
    folder = adapter(tmp_path / name, *TOO_LARGE_TO_FIT[name])
    with pytest.raises((AdapterFormatError, BaseMismatchError, UnsupportedAdapterError)) as caught:
        load_adapter(folder, base=BASE)
    assert len(str(caught.value)) < 400 + len(str(folder))


FITTING = {
    "lora": (
        {**LORA, "r": 1000},
        {
            f"{PREFIX}.lora_A.weight": ("F32", 1000, 48),
            f"{PREFIX}.lora_B.weight": ("F32", 64, 1000),
        },
        4 * 1000 * (48 + 64),
    ),
    "half": (
        {**LORA, "r": 1000},
        {
            f"{PREFIX}.lora_A.weight": ("BF16", 1000, 48),
            f"{PREFIX}.lora_B.weight": ("BF16", 64, 1000),
        },
        2 * 1000 * (48 + 64),
    ),
    "ia3": ({"peft_type": "IA3"}, {f"{PREFIX}.ia3_l": ("F32", 64, 1)}, 4 * 64),
    "shira": (
        {"peft_type": "SHIRA"},
        {f"{PREFIX}.shira_indices": ("I32", 2, 900), f"{PREFIX}.shira_weight": ("F32", 900)},
        8 * 900,
    ),
    "smt": (
        {"peft_type": "GOSSAMER_SMT"},
        {f"{PREFIX}.smt_blocks": ("I32", 10, 4), f"{PREFIX}.smt_values": ("BF16", 900)},
        2 * 900,
    ),
    "reft": (
        {**REFT, "first_positions": 1, "last_positions": 1},
        {
            "base_model.model.model.layers.0.reft_rotate": ("F32", 2, 48),
            "base_model.model.model.layers.0.reft_weight": ("F32", 2, 48),
            "base_model.model.model.layers.0.reft_bias": ("F32", 2),
        },
        4 * (2 * 96 + 2),
    ),
    "prompt": (
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 30},
        {"prompt_embeddings": ("F32", 30, 48)},
        30 * 2 * 2 * 2 * 16 * 4,
    ),
}


@pytest.mark.parametrize("name", FITTING)
def test_what_the_pool_could_never_hold_is_not_read(tmp_path, monkeypatch, name):
    config, tensors, need = FITTING[name]
    folder = adapter(tmp_path / name, config, tensors)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", None)
        with pytest.raises(
            CapacityError, match=rf"{need:,} bytes .* pool has {need - 1:,}; .*--mem"
        ):
            load_adapter(folder, base=BASE, budget=Budget(pool_bytes=need - 1))
    if name == "smt":  # zeros are no blocks, which is found out when they have been read
        with pytest.raises(AdapterFormatError, match="hold 0 entries"):
            load_adapter(folder, base=BASE, budget=Budget(pool_bytes=need))
    else:
        assert load_adapter(folder, base=BASE, budget=Budget(pool_bytes=need))


def test_rows_that_will_be_rounded_need_less(tmp_path):
    config, tensors, _ = FITTING["lora"]
    folder = adapter(tmp_path / "lora", config, tensors)
    budget = Budget(pool_bytes=1000 * (48 + 64), low_rank_width=1)
    assert load_adapter(folder, base=BASE, budget=budget).max_rank == 1000


# The header of the weights.

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS = {
    "dimensions": ({"a": ENTRY | {"shape": [10**18] * 10_000}}, "10000 dimensions.*max_dimensions"),
    "a dimension": ({"a": ENTRY | {"shape": [1 << 31]}}, r"dimension of 2147483648.*below 2\^31"),
    "digits": (
        b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % (b"9" * 5000),
        "whole number of 5000 digits",
    ),
    "an end": ({"a": ENTRY | {"data_offsets": [0, 10**19]}}, "does not take"),
    "a name": ({"a" * 513: ENTRY}, "513 characters.*512 of max_name_chars"),
    "a name of two lines": ({"a\nb": ENTRY}, r"control characters: 'a\\nb'"),
    "lists": (b'{"a":[%s[]]}' % (b"[]," * 700_000), "more than the 32768 tensors of max_tensors"),
    "bytes": (b" " * (9 * MIB), "9,437,184 bytes.*8,388,608 of max_header_mib"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(tmp_path, reserved, name):
    header, match = HEADERS[name]
    path = tmp_path / "file.safetensors"
    path.write_bytes(file_of(header, bytes(4)))
    with pytest.raises(AdapterFormatError, match=match) as caught:
        read_safetensors(path)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_more_tensors_than_allowed(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(save({f"t{n}": torch.ones(1) for n in range(11)}))
    assert read_safetensors(path, AdapterLimits(max_tensors=11))
    with pytest.raises(AdapterFormatError, match="11 tensors, more than the 10 of max_tensors"):
        read_safetensors(path, AdapterLimits(max_tensors=10))


def test_a_larger_limit_lets_it_through(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(save({"a" * 600: torch.ones(1, 1, 1, 1, 1, 1, 1, 1, 1, 3)}))
    limits = AdapterLimits(max_name_chars=600, max_dimensions=10)
    assert read_safetensors(path, limits).elements().tolist() == [1, 1, 1]
    with pytest.raises(AdapterFormatError, match="max_name_chars"):
        read_safetensors(path)


def test_more_weights_than_allowed_are_not_read(tmp_path, reserved):
    folder = adapter(tmp_path / "huge", LORA, {"x": ("F32", GIB_OF_FLOATS)})
    limits = AdapterLimits(max_weights_gib=0.5)
    with pytest.raises(
        AdapterFormatError, match=r"1,073,741,\d* bytes.*0.5 GiB of max_weights_gib"
    ):
        inspect(folder, limits)


def test_describing_an_adapter_does_not_hold_it(tmp_path, reserved):
    folder = adapter(tmp_path / "large", LORA, {f"{PREFIX}.lora_A.weight": ("F32", 4, 5 * MIB)})
    assert inspect(folder).num_bytes == 80 * MIB
    assert reserved[0] == 0


def test_a_reading_that_takes_too_long_is_given_up(tmp_path):
    folder = adapter(tmp_path / "slow", LORA, {"x": ("F32", 100)})
    with pytest.raises(AdapterReadError, match="longer than the 1e-09 s of max_read_seconds; try"):
        inspect(folder, AdapterLimits(max_read_seconds=1e-9))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    folder = adapter(tmp_path / "piped", LORA, {"x": ("F32", 1)})
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(GossamerError, match=rf"{name}|no {name}"):
        load_adapter(folder, base=BASE)


# The config.


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (b" " * (5 * MIB), "more than the 4,194,304 bytes of max_config_mib"),
        (b'{"peft_type":"LORA","x":[%s1]}' % (b"1," * 200_000), "200,004 values.*max_config_val"),
        (b'{"peft_type":"LORA","x":' + b"[" * 20 + b"]" * 20 + b"}", "21 deep.*16 of max_config_d"),
        (b'{"peft_type":"LORA","x":' + b"[" * 50_000, "nested too deeply|not valid JSON"),
        (b'{"peft_type":"LORA","r":%s}' % (b"9" * 5000), "a whole number of 5000 digits"),
        (b'{"peft_type":"LORA","r":%s}' % (b"9" * 21), "a whole number of 21 digits"),
        (b'{"peft_type":"LORA\\nX"}', r"peft_type = 'LORA\\nX' is no name of a type"),
        (b'{"peft_type":"LORA","r":2147483648}', "r = 2147483648: .* from 1 to "),
        (b'{"peft_type":"LORA","lora_alpha":1e400}', "lora_alpha = inf: must be a finite"),
        (b"\xff\xfe", "no UTF-8 text"),
    ],
)
def test_configs(tmp_path, config, match):
    write_config(tmp_path / "mine", config)
    with pytest.raises(AdapterFormatError, match=match) as caught:
        parse_lora(read_config(tmp_path / "mine"))
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_positions_beyond_32_bits(tmp_path):
    config, tensors, _ = FITTING["reft"]
    for field in ("first_positions", "last_positions"):
        folder = adapter(tmp_path / field, {**config, field: 1 << 31}, tensors)
        with pytest.raises(AdapterFormatError, match=rf"{field} = 2147483648 .*below 2\^31"):
            load_adapter(folder, base=BASE)


def test_a_block_number_of_many_digits(tmp_path):
    tensors = {f"base_model.model.layers.{'9' * 400}.reft_bias": ("F32", 2)}
    folder = adapter(tmp_path / "deep", FITTING["reft"][0], tensors)
    with pytest.raises(UnsupportedAdapterError, match="no part of an edit"):
        load_adapter(folder, base=BASE)


def test_a_scale_that_float32_cannot_hold(tmp_path):
    config, tensors, _ = FITTING["lora"]
    folder = adapter(tmp_path / "loud", {**config, "lora_alpha": 1e300}, tensors)
    with pytest.raises(AdapterFormatError, match=r"scaled by 1e\+297, which is infinite"):
        load_adapter(folder, base=BASE)


# Places of sparse changes.


def sparse(folder, peft_type, places, values):
    names = {
        "SHIRA": ("shira_indices", "shira_weight"),
        "GOSSAMER_SMT": ("smt_blocks", "smt_values"),
    }[peft_type]
    write_config(folder, {"peft_type": peft_type})
    tensors = {f"{PREFIX}.{names[0]}": places, f"{PREFIX}.{names[1]}": values}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("base", [BASE, None])
@pytest.mark.parametrize(
    ("block", "count"),
    [
        ((2**63 - 192, 0, 192, 1), 192),
        ((0, 2**63 - 4, 1, 4), 4),
        ((2**31, 0, 1, 1), 1),
        ((0, 2**31, 1, 1), 1),
        ((2**62, 0, 2**62, 4), 0),  # 2^64 entries, which are 0 in 64 bits
        ((0, 0, 2**32, 2**32), 0),
        ((0, 0, -1, -5), 5),
        ((-(2**63), 0, 1, 1), 1),
    ],
)
def test_blocks_whose_ends_overflow(tmp_path, base, block, count):
    places = torch.tensor([block], dtype=torch.int64)
    folder = sparse(tmp_path / "evil", "GOSSAMER_SMT", places, torch.ones(count))
    with pytest.raises(AdapterFormatError, match=r"below 2\^31|below row or column 0|hold \d+ ent"):
        load_adapter(folder, base=base)


def test_blocks_that_hold_more_than_64_bits_can_count(tmp_path):
    places = torch.tensor([[0, 0, 2**31 - 1, 2**31 - 1]] * 5)
    folder = sparse(tmp_path / "evil", "GOSSAMER_SMT", places, torch.ones(5))
    with pytest.raises(AdapterFormatError, match=f"hold {5 * (2**31 - 1) ** 2} entries"):
        load_adapter(folder)


def test_more_rows_of_blocks_than_allowed(tmp_path):
    places = torch.tensor([[0, 0, 40, 1], [0, 1, 40, 1]])
    folder = sparse(tmp_path / "thin", "GOSSAMER_SMT", places, torch.ones(80))
    assert load_adapter(folder, base=BASE).deltas
    budget = Budget(limits=AdapterLimits(max_block_rows=79))
    with pytest.raises(AdapterFormatError, match="80 rows, more than the 79 of max_block_rows"):
        load_adapter(folder, base=BASE, budget=budget)


@pytest.mark.parametrize("base", [BASE, None])
@pytest.mark.parametrize("place", [2**31, 2**32 + 1, 2**63 - 1, -1, -(2**63), 2.0**31, 1e30, 0.5])
def test_entries_far_outside(tmp_path, base, place):
    dtype = torch.float64 if isinstance(place, float) else torch.int64
    for number, places in enumerate(([[place], [0]], [[0], [place]])):
        tensor = torch.tensor(places, dtype=dtype)
        folder = sparse(tmp_path / f"evil{number}", "SHIRA", tensor, torch.ones(1))
        with pytest.raises(
            AdapterFormatError, match=r"below 2\^31|below row or column 0|not whole numbers"
        ):
            load_adapter(folder, base=base)


def test_more_entries_than_a_layer_has(tmp_path):
    places = torch.zeros(2, 64 * 48 + 1, dtype=torch.int32)
    folder = sparse(tmp_path / "many", "SHIRA", places, torch.ones(64 * 48 + 1))
    with pytest.raises(BaseMismatchError, match=r"3,073 entries .* model has 3,072"):
        load_adapter(folder, base=BASE)
