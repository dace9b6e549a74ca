"""Models whose layers have widths of their own are served token for token, adapters included."""

import pytest
from exactness import SHAPES, Family, answers, served

from gossamer.basemodel.pruned import FAMILIES, register
from gossamer.errors import SettingError
from gossamer.llm import LLM
from gossamer.serving.runner.model_shape import base_sizes

WIDTHS = {"layer_key_value_heads": [2, 1, 2], "layer_intermediate_sizes": [57, 100, 80]}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Families, made when first asked for."""
    made = {}

    def family(name):
        if name not in made:
            register(f"pruned_{name}")
            folder = tmp_path_factory.mktemp(name)
            made[name] = Family(folder, f"pruned_{name}", **SHAPES[name], **WIDTHS)
        return made[name]

    return family


def test_all_families_are_tested():
    assert set(SHAPES) == set(FAMILIES)


@pytest.mark.parametrize(
    "name",
    # Those that are computed as one of these are, up to biases and rotations, are slow tests.
    [n if n in ("llama", "qwen3") else pytest.param(n, marks=pytest.mark.slow) for n in SHAPES],
)
def test_one_mixed_batch(families, name):
    family = families(name)
    with served(family) as llm:
        completions = answers(llm, family.requests)
        stats = llm.engine.stats()
    family.check_all(completions)
    assert stats.adapter_loads == 10


@pytest.mark.parametrize(
    "settings",
    [{"max_batch_tokens": 33, "block_tokens": 5}, {"backend": "reference"}],
    ids=str,
)
def test_other_chunks_and_kernels(families, settings):
    family = families("llama")
    with served(family, **settings) as llm:
        family.check_all(answers(llm, family.requests))


def test_the_pool_has_room_for_the_heads_there_are(families):
    """A block of 16 tokens: keys and values of 2 + 1 + 2 heads of 16, float32."""
    with served(families("llama"), memory_gib=100 * 10240 / 1024**3) as llm:
        assert llm.engine.stats().blocks_total == 100


def test_a_plan_counts_the_heads_there_are(families):
    sizes = base_sizes(families("llama").model)
    assert sizes.token_bytes == 2 * (2 + 1 + 2) * 16 * 4
    assert sizes.shape.linears["model.layers.0.mlp.down_proj"] == (48, 57)


def test_several_ranks_are_refused_with_the_reason(families):
    with pytest.raises(SettingError, match="widths of their own"):
        LLM(families("llama").model, tensor_parallel=2)
