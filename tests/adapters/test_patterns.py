import time

import pytest
from peft.utils.other import get_pattern_key

from gossamer.adapters.patterns import check_keys, value_for
from gossamer.errors import AdapterFormatError

MODULES = [
    f"model.layers.{layer}.{part}"
    for layer in (0, 1, 10, 11)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj")
] + ["lm_head", "q_proj"]

PATTERNS = [
    {"q_proj": 1},
    {"proj": 1},
    {"self_attn.q_proj": 1, "q_proj": 2},
    {"q_proj": 2, "self_attn.q_proj": 1},
    {"model.layers.1.self_attn.q_proj": 1},
    {"layers.1.self_attn.q_proj": 1, "layers.11.mlp.down_proj": 3},
    {".*layers.1[01].*": 1},
    {r"layers\.\d+\.mlp\.down_proj": 1, "mlp.down_proj": 2},
    {"^model.layers.0.*": 1},
    {"self_attn.(q|k)_proj": 1},
    {"layers.1.mlp_down_proj": 1, "self_attnxq_proj": 2},
    {"q_proj|k_proj": 1},
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_picks_the_value_that_peft_picks(pattern):
    for module in MODULES:
        expected = pattern.get(get_pattern_key(pattern.keys(), module), 99)
        assert value_for(pattern, module, 99) == expected, module


@pytest.mark.parametrize("key", ["(", "q_proj)", "*", "a" * 2000])
def test_refuses_what_is_no_pattern(key):
    with pytest.raises(AdapterFormatError, match="rank_pattern: the pattern"):
        check_keys("rank_pattern", {key: 8})


@pytest.mark.parametrize("key", ["(a+)+b", "(.*.*)*x", "((m|o)*)*$x", ".*.*.*.*.*x", "(a|aa){9,}b"])
def test_a_hostile_pattern_is_refused_at_once(key):
    start = time.perf_counter()
    with pytest.raises(AdapterFormatError, match="repeats too much"):
        value_for({key: 8}, "model.layers.0.self_attn.q_proj" * 3, 1)
    assert time.perf_counter() - start < 1
