"""Many adapters in one batch say what each would say alone, merged by PEFT: token for token."""

import random

import pytest
from exactness import GREEDY, SHAPES, Family, answers, served

from gossamer.basemodel.pruned import FAMILIES
from gossamer.llm import LLM

BLOCK_BYTES = 12288
"""Of 16 tokens in the tiny model: 3 layers, keys and values, 2 heads of 16, float32."""


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Families, made when first asked for."""
    made = {}

    def family(name):
        if name not in made:
            made[name] = Family(tmp_path_factory.mktemp(name), name, **SHAPES[name])
        return made[name]

    return family


def gib(num_blocks):
    return num_blocks * BLOCK_BYTES / 1024**3


def test_all_families_that_can_be_pruned_are_tested():
    assert set(SHAPES) == set(FAMILIES)


@pytest.mark.parametrize("name", SHAPES)
def test_one_mixed_batch(families, name):
    family = families(name)
    with served(family) as llm:
        completions = answers(llm, family.requests)
        stats = llm.engine.stats()
    family.check_all(completions)
    assert stats.adapter_loads == 10
    # All in one batch: hardly more steps than new tokens.
    assert stats.steps < 64 + 16


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch_tokens": 7},
        {"max_batch_tokens": 33, "block_tokens": 5},
        {"max_batch_tokens": 3, "max_running": 4},
        {"max_batch_tokens": 33, "backend": "reference"},
    ],
    ids=str,
)
def test_other_chunk_sizes_and_kernels(families, settings):
    family = families("qwen3")
    with served(family, **settings) as llm:
        family.check_all(answers(llm, family.requests))


def test_shuffled_arrival(families):
    family = families("qwen2")
    rng = random.Random(0)
    with served(family, max_running=5) as llm:
        for _ in range(2):
            requests = list(family.requests)
            rng.shuffle(requests)
            for completion in answers(llm, requests):
                family.check(completion)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_memory_so_small_that_adapters_come_and_go_and_sequences_start_over(families, name):
    family = families(name)
    # The largest adapter takes 52 blocks.
    with served(family, memory_gib=gib(66), expected_new_tokens=1) as llm:
        completions = answers(llm, family.requests)
        stats = llm.engine.stats()
    family.check_all(completions)
    assert stats.blocks_total == 66
    assert stats.adapter_evictions > 0
    assert stats.adapter_loads > 10
    assert stats.preemptions > 0


def test_base_only_requests_do_not_feel_the_adapters(families):
    """The same tokens and the same log-probabilities, bit for bit, as without any adapter."""
    family = families("mistral")
    base = [(prompt, None) for prompt, name in family.requests if name is None]
    # Where a prompt is cut depends on what else is in the batch, and long pieces go another way
    # through attention, which rounds differently.
    short = {"max_batch_tokens": 15}
    with LLM(family.model, memory_gib=0.05, threads=1, **short) as llm:
        want = answers(llm, base)
    with served(family, **short) as llm:
        mixed = answers(llm, family.requests)
    got = [completion for completion in mixed if completion.adapter is None]
    assert [c.token_ids for c in got] == [c.token_ids for c in want]
    assert [c.logprobs for c in got] == [c.logprobs for c in want]


def test_the_same_answer_again_alone_and_after_eviction(families):
    """One engine, one adapter: first among others, then alone, then read anew."""
    family = families("llama")
    with served(family, memory_gib=gib(66)) as llm:
        first = answers(llm, family.requests)
        # Among them the largest, which takes the place of all others.
        for number in (1, 12, 5, 12, 1):
            (again,) = answers(llm, [family.requests[number]])
            assert again.token_ids == first[number].token_ids
        assert llm.engine.stats().adapter_evictions > 5


def test_a_seeded_answer_does_not_depend_on_its_neighbours(families):
    family = families("llama")
    sampling = type(GREEDY)(max_tokens=40, temperature=1.1, top_p=0.95, seed=11, ignore_eos=True)
    with served(family) as llm:
        alone = llm.generate("Hello there", adapter="r16-rslora", sampling=sampling)
        prompts = ["a", "Hello there", "bb" * 30]
        mixed = llm.generate(prompts, adapter=["r1", "r16-rslora", None], sampling=sampling)
    assert mixed[1].token_ids == alone[0].token_ids
