"""Adapters of every kind in one batch say what each says alone in plain PEFT: token for token."""

import random
from dataclasses import replace

import pytest
from engine_case import ask, check_idle, standing_still, start
from kinds_case import GREEDY, NAMES, answers

from gossamer.errors import RequestError, UnsupportedAdapterError
from gossamer.llm import LLM
from gossamer.serving.core.messages import Finished

from tiny import module_shapes

# PEFT's SHiRA makes sparse tensors without saying whether they shall be checked.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

BLOCK_BYTES = 12288
"""Of 16 tokens in the tiny model: 3 layers, keys and values, 2 heads of 16, float32."""
UNTIL_FULL = replace(GREEDY, max_tokens=None)


def served(family, **settings):
    options = {"memory_gib": 0.05, "threads": 1, **settings}
    return LLM(family.model, adapters=family.adapters, **options)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_one_batch_of_all_kinds_says_what_each_reference_says(kinds, family):
    """qwen2 has biases, which DoRA leaves alone and IA3 scales."""
    family = kinds(family)
    with served(family) as llm:
        completions = answers(llm, family.requests)
        states = {status.name: status for status in llm.engine.adapters()}
    family.check_all(completions)
    assert {name: states[name].kind for name in NAMES} == {
        **dict.fromkeys(["lora", "lora-qv"], "low-rank"),
        **dict.fromkeys(["dora", "dora-qk", "ia3"], "gain"),
        **dict.fromkeys(["shira", "shira-v", "smt"], "sparse"),
        **dict.fromkeys(["prompt", "p-tuning", "prefix", "prefix-21"], "prefix"),
        "norms": "vector",
        **dict.fromkeys(["biases", "tables", "table-factors", "head-factors"], "mixed"),
        "tokens": "tokens",
        "houlsby": "bottleneck",
        **dict.fromkeys(["sherl", "sherl-gated", "sherl-norms"], "side-network"),
        **dict.fromkeys(["meft", "meft2", "meft3"], "two-stream"),
        **dict.fromkeys(["loreft", "nodireft", "direft"], "intervention"),
    }


def test_each_kind_alone_says_what_its_reference_says(kinds):
    family = kinds("llama")
    with served(family) as llm:
        for request in family.requests[: len(NAMES) + 1]:
            (completion,) = answers(llm, [request])
            family.check(completion)
        sizes = {status.name: status.num_bytes for status in llm.engine.adapters()}
    check_sizes(family, sizes)


def check_sizes(family, sizes):
    """Each kind is charged what it weighs."""
    shapes = module_shapes(family.model)
    outputs = sum(h_out for h_out, _ in shapes.values())
    both = outputs + sum(h_in for _, h_in in shapes.values())
    assert sizes["lora"] == 4 * 8 * both
    assert sizes["dora"] == 4 * 4 * both + 4 * outputs
    assert sizes["ia3"] == 4 * 3 * (32 + 32 + 100)
    assert sizes["shira-v"] == 8 * 3 * (48 + 32)
    assert sizes["smt"] == 4 * 6 * (16 * 16 + 9 * 17 + 5)
    assert sizes["loreft"] == 4 * 2 * (2 * 3 * 48 + 3)
    assert sizes["direft"] == 4 * 4 * (2 * 5 * 48 + 5)
    assert sizes["norms"] == 4 * 48 * (3 + 1)
    # Of the embedding what differs from the base's, of the output layer everything.
    assert sizes["tables"] == 4 * (3 * 2 * (48 + 32) + 2 * 259 * 48)
    # The base's tables, which PEFT saves too: a row of the embedding, and the output layer.
    factors = 3 * 3 * (48 + 64) + 2 * 3 * (259 + 48)
    assert sizes["table-factors"] == 4 * (factors + 48 + 259 * 48)
    assert sizes["head-factors"] == 4 * (2 * (259 + 48) + 259 * 48)
    assert sizes["tokens"] == 4 * 43 * 48
    # Three states; and the networks beside two layers.
    assert sizes["sherl"] == 4 * (3 * (12 * 48 + 2 * 12 * 12 + 3 * 12) + 13 + 48 * 12 + 48)
    assert sizes["meft"] == 4 * 2 * 2 * (2 * 48 * 8 + 8 + 48)
    assert sizes["houlsby"] == 4 * 6 * (2 * 70 * 48 + 70 + 48)
    per_token = BLOCK_BYTES // 16
    assert (sizes["prompt"], sizes["prefix-21"]) == (5 * per_token, 21 * per_token)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch_tokens": 7},
        {"max_batch_tokens": 33, "block_tokens": 5},
        {"max_batch_tokens": 33, "backend": "reference"},
    ],
    ids=str,
)
def test_other_chunk_sizes_and_kernels_change_no_answer(kinds, settings):
    family = kinds("qwen2")
    with served(family, **settings) as llm:
        family.check_all(answers(llm, family.requests))


def test_shuffled_arrival_changes_no_answer(kinds):
    family = kinds("llama")
    requests = list(family.requests)
    random.Random(0).shuffle(requests)
    with served(family, max_running=5) as llm:
        for completion in answers(llm, requests):
            family.check(completion)


def test_memory_so_small_that_adapters_come_and_go_and_sequences_start_over(kinds):
    family = kinds("llama")
    memory = 24 * BLOCK_BYTES / 1024**3
    with served(family, memory_gib=memory, expected_new_tokens=1) as llm:
        completions = answers(llm, family.requests)
        stats = llm.engine.stats()
    family.check_all(completions)
    assert stats.blocks_total == 24
    assert stats.adapter_evictions > 5
    assert stats.preemptions > 0


def test_no_block_is_lost_whatever_is_cancelled(kinds):
    """Requests of all kinds in a small pool, many cancelled at any moment; the engine recounts."""
    family = kinds("llama")
    rng = random.Random(1)
    engine = start(family.model, family.adapters, num_blocks=30, expected_new_tokens=2)
    requests = []
    for _ in range(150):
        prompt = [rng.randrange(3, 259) for _ in range(rng.choice((1, 9, 40)))]
        names = [None, *NAMES, "lora:0.5+shira:0.5"]
        requests.append(ask(engine, prompt, rng.choice(names), max_tokens=rng.choice((1, 5, 20))))
        if rng.random() < 0.4:
            engine.cancel(rng.choice(requests).id)
    for request in requests:
        assert isinstance(request.wait(), Finished), request.finals
    check_idle(engine)
    assert engine.stats().adapter_evictions > 10
    engine.shutdown()


def test_virtual_tokens_count_towards_the_context(kinds):
    family = kinds("llama")
    prompt = [5] * 30
    with served(family, max_context=64) as llm:
        (whole,) = llm.generate([prompt], adapter="p-tuning", sampling=UNTIL_FULL)
        # 18 virtual tokens, 30 of the prompt.
        assert len(whole.token_ids) == 64 - 18 - 30
        (base,) = llm.generate([prompt], sampling=UNTIL_FULL)
        assert len(base.token_ids) == 64 - 30
        asked = replace(UNTIL_FULL, max_tokens=17)
        with pytest.raises(RequestError, match=r"18 virtual.*leaves 46 of .* 64; .*30 \+ 17"):
            llm.generate([prompt], adapter="p-tuning", sampling=asked)


def test_virtual_tokens_that_leave_no_room_for_a_prompt_are_refused(kinds):
    family = kinds("llama")
    with served(family, max_context=20) as llm:
        (least,) = llm.generate([[5]], adapter="p-tuning", sampling=UNTIL_FULL)
        assert len(least.token_ids) == 1
    with served(family, max_context=19) as llm:
        for name in ("p-tuning", "prefix-21"):
            with pytest.raises(
                UnsupportedAdapterError,
                match=r"num_virtual_tokens=\d\d; .* of 19 \(max_context\) there may be 17",
            ):
                llm.generate([[5]], adapter=name, sampling=UNTIL_FULL)


def test_virtual_tokens_are_computed_in_chunks_beside_other_requests(kinds):
    """Nothing is computed outside of steps, and no step is larger than others may be."""
    family = kinds("llama")
    engine = start(family.model, family.adapters, max_batch_tokens=16)
    run, steps = engine.runner.model.run, []

    def watch(batch):
        steps.append((batch.token_ids.shape[1], batch.virtual and len(batch.virtual[1])))
        return run(batch)

    engine.runner.model.run = watch
    with standing_still(engine):
        stream = ask(engine, max_tokens=60)
        waiting = ask(engine, adapter="p-tuning", max_tokens=2)
    assert waiting.wait().finish_reason == stream.wait().finish_reason == "length"
    assert max(size for size, _ in steps) <= 16
    virtual = [count for _, count in steps if count]
    assert sum(virtual) == 18
    assert len(virtual) >= 3
    check_idle(engine)
    engine.shutdown()


def test_a_step_with_virtual_tokens_that_fails_ends_their_adapters_requests(kinds):
    family = kinds("llama")
    engine = start(family.model, family.adapters)
    run = engine.runner.model.run

    def fail(batch):
        if batch.virtual:
            raise MemoryError("none left")
        return run(batch)

    engine.runner.model.run = fail
    failed = ask(engine, adapter="prompt").wait()
    assert "adapter prompt cannot be placed now: no memory is left; try again" in str(failed.error)
    assert isinstance(ask(engine, adapter="prefix").wait(), Finished), "its states are given"
    check_idle(engine)
    engine.runner.model.run = run
    assert isinstance(ask(engine, adapter="prompt").wait(), Finished)
    check_idle(engine)
    engine.shutdown()


def test_base_only_requests_do_not_feel_adapters_of_any_kind(kinds):
    """The same tokens and the same log-probabilities, bit for bit, as without any adapter."""
    family = kinds("llama")
    base = [request for request in family.requests if request[1] is None]
    with LLM(family.model, memory_gib=0.05, threads=1) as llm:
        want = answers(llm, base)
    with served(family) as llm:
        got = [c for c in answers(llm, family.requests) if c.adapter is None]
    assert [(c.token_ids, c.logprobs) for c in got] == [(c.token_ids, c.logprobs) for c in want]
