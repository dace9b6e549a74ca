"""Two and four processes, families with biases and with norms of heads, and long random lives."""

import random
from dataclasses import replace

import pytest
import torch
from engine_case import BLOCK_BYTES, ask, check_idle
from exactness import Family
from exactness import answers as long_answers
from kinds_case import GREEDY, NAMES, answers
from ranks_case import assert_equal_answers, llm

from gossamer.serving.core.messages import Finished

from tiny import make_lora

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_all_kinds_in_one_batch_say_what_one_process_says(kinds, name, size):
    """On four, each of the two key/value heads is on two ranks."""
    family = kinds(name)
    with llm(family, 1) as one:
        want = answers(one, family.requests)
    with llm(family, size) as ranks:
        got = answers(ranks, family.requests)
    family.check_all(got)
    assert_equal_answers(got, want)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("rows", ["as-saved", "int8"])
def test_tied_embeddings_and_ranks_that_are_no_multiple_of_four(tmp_path, size, rows):
    """Ranks 1, 3, 5, 17 among them; int8 rows have the scale of the whole row."""
    family = Family(tmp_path, "llama", tie_word_embeddings=True)
    make_lora(family.adapters / "r5", family.model, rank=5, seed=50, size=0.6)
    requests = [*family.requests, ([7, 8, 9], "r5")]
    options = {"adapter_rows": rows}
    with llm(family, 1, **options) as one:
        want = long_answers(one, requests)
    with llm(family, size, **options) as ranks:
        got = long_answers(ranks, requests)
    for expected, found in zip(want, got, strict=True):
        logprobs = torch.tensor([[one.logprob for one in c.logprobs] for c in (expected, found)])
        assert found.token_ids == expected.token_ids
        assert (logprobs[0] - logprobs[1]).abs().max() < 1e-4


def test_two_thousand_requests_leave_the_same_on_all_ranks(kinds):
    """In a pool so small that adapters come and go and sequences start over; nothing is lost."""
    family = kinds("llama")
    rng = random.Random(7)
    memory = 44 * BLOCK_BYTES / 2 / 1024**3
    with llm(family, 2, memory_gib=memory, expected_new_tokens=2, max_batch_tokens=48) as ranks:
        engine = ranks.engine
        requests = []
        for number in range(2000):
            prompt = [rng.randrange(3, 259) for _ in range(rng.choice((1, 5, 30)))]
            names = [None, *NAMES, "lora:0.5+shira:0.5"]
            most = rng.choice((1, 2, 24))
            requests.append(ask(engine, prompt, rng.choice(names), max_tokens=most))
            if rng.random() < 0.3:
                engine.cancel(rng.choice(requests).id)
            if number % 40 == 39:
                requests[-1].wait()
                engine.audit()
            if number % 200 == 199:
                name = rng.choice(NAMES)
                engine.unload_adapter(name)
                engine.load_adapter(name).result(60)
        for request in requests:
            assert isinstance(request.wait(), Finished), request.finals
        check_idle(engine)
        engine.audit()
        stats = engine.stats()
        assert stats.adapter_evictions > 40
        assert stats.preemptions > 0


def test_a_hot_adapter_is_merged_on_all_ranks(kinds):
    family = kinds("qwen2")
    with llm(family, 1) as one:
        (want,) = answers(one, [([5, 6, 7], "lora")])
    with llm(family, 2, merge_hot=True) as ranks:
        for _ in range(12):
            many = answers(ranks, [([5, 6, 7], "lora")] * 12 + [([5, 6], None)])
            assert all(each.token_ids == want.token_ids for each in many[:12])
        stats = ranks.engine.stats()
        assert stats.merged_adapter == "lora"
        assert stats.merged_steps > 20
        family.check(many[-1])
        answers(ranks, [([5, 6], "dora")] * 20)
        ranks.engine.audit()


def test_gpu_kernels_on_two_ranks_say_what_those_of_one_processor_do(kinds):
    """Interpreted; steps that decode are padded alike on both."""
    family = kinds("qwen2")
    sampling = replace(GREEDY, max_tokens=4)
    names = [None, "lora", "dora", "ia3", "shira", "smt", "loreft", "prefix", "prompt"]
    prompts = [list(range(5, 8 + 2 * number)) for number in range(len(names))]
    said = []
    for size, backend in ((1, "cpu"), (2, "triton")):
        options = {"backend": backend, "max_running": 4, "rank_timeout": 300}
        with llm(family, size, **options) as server:
            said.append(server.generate(prompts, adapter=names, sampling=sampling))
            server.engine.audit()
    assert [c.token_ids for c in said[0]] == [c.token_ids for c in said[1]]
