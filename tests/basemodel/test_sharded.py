"""Among how many ranks a model can be divided, and who gets which heads."""

from types import SimpleNamespace

import pytest

from gossamer.basemodel.sharded import (
    ModelPart,
    allowed_sizes,
    check_size,
    kv_heads_of,
    styles_of,
)
from gossamer.errors import SettingError


def config(heads, kv_heads, intermediate=1024):
    return SimpleNamespace(
        num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=intermediate
    )


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((32, 8, 14336), [1, 2, 4, 8, 16, 32]),
        ((9, 3, 1536), [1, 3]),
        ((9, 3, 1530), [1, 3, 9]),
        ((4, 2, 100), [1, 2, 4]),
        ((12, 4, 1200), [1, 2, 4, 12]),
        ((8, None, 1024), [1, 2, 4, 8]),
    ],
)
def test_heads_must_come_out_even(shape, sizes):
    assert allowed_sizes(config(*shape)) == sizes


def test_another_number_is_refused_with_those_that_work():
    check_size(config(9, 3, 1536), 3)
    with pytest.raises(SettingError, match=r"tensor_parallel=2: .* 9 attention .* among 1, 3$"):
        check_size(config(9, 3, 1536), 2)


def test_a_rank_has_the_heads_of_its_queries():
    """Query head q attends to key/value head q // (heads / kv heads), on its own rank."""
    for heads, kv_heads in ((32, 8), (12, 4), (4, 2), (6, 1)):
        for size in allowed_sizes(config(heads, kv_heads, heads * 16)):
            for rank in range(size):
                own = kv_heads_of(ModelPart(rank, size), kv_heads)
                queries = range(rank * heads // size, (rank + 1) * heads // size)
                assert {q * kv_heads // heads for q in queries} == set(own)


def test_a_plan_names_layers_with_a_star_for_each_number():
    plan = {"model.layers.*.o_proj": "rowwise", "lm_head": "colwise_gather_output", "x.norm": "z"}
    paths = ["model.layers.17.o_proj", "lm_head", "x.norm", "model.layers.1.q_proj", "model"]
    assert styles_of(plan, paths) == {"model.layers.17.o_proj": "row", "lm_head": "column"}
