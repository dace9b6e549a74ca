"""Low-rank adapters of which each process has a share of both factors: same answers, less each."""

import pytest
from engine_case import ask
from exactness import Family
from exactness import answers as long_answers
from kinds_case import NAMES, Kinds, answers
from ranks_case import assert_equal_answers, count_collectives, llm

from gossamer.errors import SettingError
from gossamer.serving.packing.capacity import PoolSizes
from gossamer.serving.packing.low_rank import cost_of_rank
from gossamer.serving.runner.model_shape import base_sizes

from tiny import make_lora, module_shapes

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

LAYERS = 3
BLENDS = [
    ([5, 6, 7], "lora:0.5+shira:0.5"),
    ([8, 9], "lora:0.3+lora-qv:0.9"),
    ([4], "lora-qv:0.25+lora:0.75"),
]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """It has biases in q, k and v, and an output layer of its own."""
    return Kinds(tmp_path_factory.mktemp("qwen2"), "qwen2")


@pytest.fixture(scope="module")
def full(family):
    with llm(family, 2, block_tokens=32, adapter_sharding="full") as ranks:
        yield ranks


# Per layer: sums for o and down beside the two of the base, and gathers for q, k, v and gate, up.
@pytest.mark.parametrize(
    ("name", "sums", "gathers"),
    [
        (None, 0, 0),
        ("shira", 0, 0),
        ("ia3", 0, 0),
        ("loreft", 0, 0),
        ("lora", 2, 2),
        ("dora", 2, 2),
        ("lora-qv", 0, 1),
        ("lora:0.5+lora-qv:0.5", 2, 2),
    ],
)
def test_a_low_rank_adapter_adds_four_exchanges_a_layer_and_others_none(
    full, monkeypatch, name, sums, gathers
):
    ask(full.engine, adapter=name, max_tokens=1).wait()  # it is loaded before it is counted
    steps = full.engine.stats().steps
    counts = count_collectives(monkeypatch)
    ask(full.engine, adapter=name, max_tokens=6).wait()
    steps = full.engine.stats().steps - steps
    assert steps >= 6
    want = {"all_reduce": steps * ((2 + sums) * LAYERS + 1), "gather": steps}
    if gathers:
        want["all_gather"] = steps * gathers * LAYERS
    assert counts == want


def test_a_mixed_batch_says_what_each_reference_says(full, family):
    family.check_all(answers(full, family.requests))


def test_a_share_of_an_adapter_is_an_equal_share_of_both_factors(full, family):
    """Rank 8 on two processes: 4 rows of A, or half of their columns, and half of the outputs."""
    ask(full.engine, adapter="lora", max_tokens=1).wait()
    (status,) = [each for each in full.engine.adapters() if each.name == "lora"]
    numbers = 0
    for path, (h_out, h_in) in module_shapes(family.model).items():
        is_row = path.endswith(("o_proj", "down_proj"))
        of_a = 8 * padded(h_in // 2) if is_row else 4 * padded(h_in)
        numbers += of_a + 8 * padded(h_out // 2)
    assert status.num_bytes == 4 * numbers
    base = base_sizes(family.model, num_ranks=2)
    share = PoolSizes(base=base, block_tokens=32, row_width=4, split_ranks=2)
    assert cost_of_rank(share, 8).num_bytes == status.num_bytes


def padded(width):
    """Numbers of a row in the pool: whole 16 bytes."""
    return -(-width // 4) * 4


def test_merged_adapters_need_whole_factors(family):
    with pytest.raises(SettingError, match=r"merge_hot.*leave one of the two out"):
        llm(family, 2, adapter_sharding="full", merge_hot=True)


def test_one_process_has_all_of_an_adapter_in_any_case(family):
    with llm(family, 1, adapter_sharding="full", merge_hot=True) as one:
        (answer,) = answers(one, [([5, 6, 7], "lora")])
    family.check(answer)


@pytest.mark.slow
def test_the_kernels_of_a_gpu_are_refused(full, family):
    full.close()
    with pytest.raises(SettingError, match=r"adapter_sharding.*triton.*use replicated"):
        llm(family, 2, adapter_sharding="full", backend="triton")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_all_kinds_and_blends_say_what_one_process_says(tmp_path, name, size, backend):
    """On four, each of the two key/value heads is on two ranks."""
    kinds = Kinds(tmp_path, name)
    requests = kinds.requests + BLENDS
    with llm(kinds, 1, backend=backend) as one:
        want = answers(one, requests)
    with llm(kinds, size, backend=backend, adapter_sharding="full") as ranks:
        got = answers(ranks, requests)
        ranks.engine.audit()
    assert_equal_answers(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("rows", ["as-saved", "int8"])
def test_ranks_that_are_no_multiple_of_the_number_of_processes(tmp_path, size, rows):
    """Ranks 1, 3, 5, 8, 12, 16, 17 and 64 in one batch; int8 rows have the scale of the whole."""
    family = Family(tmp_path, "llama", tie_word_embeddings=True)
    make_lora(family.adapters / "r5", family.model, rank=5, seed=50, size=0.6)
    requests = [*family.requests, ([7, 8, 9], "r5"), ([7, 8], "r5:0.5+r1:0.25+r64:0.25")]
    with llm(family, 1, adapter_rows=rows) as one:
        want = long_answers(one, requests)
    with llm(family, size, adapter_rows=rows, adapter_sharding="full") as ranks:
        got = long_answers(ranks, requests)
    assert_equal_answers(got, want)


@pytest.mark.slow
def test_adapters_come_and_go_in_a_small_pool(family):
    """More adapters than fit: each is placed again where another has been."""
    memory = 2.2e-4
    rounds = [[([5 + number], name) for name in NAMES] for number in range(4)]
    with llm(family, 1) as one:
        want = [answer for requests in rounds for answer in answers(one, requests)]
    with llm(family, 2, adapter_sharding="full", memory_gib=memory, max_running=4) as ranks:
        got = [answer for requests in rounds for answer in answers(ranks, requests)]
        ranks.engine.audit()
        evictions = ranks.engine.stats().adapter_evictions
    print(f"  {evictions} evictions")
    assert evictions > 5
    assert_equal_answers(got, want)
