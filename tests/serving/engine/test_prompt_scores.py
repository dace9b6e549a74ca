"""Log-probabilities of prompts are each reference's, for every kind of adapter in one batch."""

from dataclasses import replace

import pytest
import torch

from gossamer.errors import RequestError
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams
from gossamer.serving.runner import prompt_scores

# PEFT's SHiRA makes sparse tensors without saying whether they shall be checked.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

BLOCK_BYTES = 12288
"""Of 16 tokens in the tiny model: 3 layers, keys and values, 2 heads of 16, float32."""
TOLERANCE = 1e-4
SCORED = SamplingParams(max_tokens=0, prompt_logprobs=3)


def served(family, **settings):
    options = {"memory_gib": 0.05, "threads": 1, **settings}
    return LLM(family.model, adapters=family.adapters, **options)


def check(family, completion, *, first=1):
    """The scores of `completion` are the reference's from token `first` on, and no others are."""
    prompt = completion.prompt_token_ids
    told = completion.prompt_logprobs
    assert len(told) == len(prompt)
    assert told[:first] == (None,) * min(first, len(prompt))
    if len(prompt) <= first:
        return
    want = family.prompt_logprobs(completion.adapter, prompt)[first - 1 :]
    tokens = torch.tensor(prompt[first:])
    assert [each.token_id for each in told[first:]] == list(prompt[first:])
    own = want.gather(1, tokens[:, None])
    got = torch.tensor([each.logprob for each in told[first:]])
    assert (got - own[:, 0]).abs().max() < TOLERANCE, completion.adapter
    for each, values, value in zip(told[first:], want, own[:, 0], strict=True):
        best = values.topk(len(each.top)).values
        assert [v for _, _, v in each.top] == pytest.approx(best.tolist(), abs=TOLERANCE)
        assert [values[t] for t, _, _ in each.top] == pytest.approx(best.tolist(), abs=TOLERANCE)
        # Tokens as likely as this one, but for rounding, may stand before it.
        near = int((values > value + TOLERANCE).sum()), int((values > value - TOLERANCE).sum())
        assert near[0] < each.rank <= max(near[1], near[0] + 1)


def scores(llm, requests, sampling=SCORED):
    prompts, names = zip(*requests, strict=True)
    return llm.generate(list(prompts), adapter=list(names), sampling=sampling)


@pytest.mark.parametrize(
    "settings", [{}, {"max_batch_tokens": 7}, {"backend": "reference"}], ids=str
)
def test_prompts_of_all_kinds_in_one_batch_have_the_scores_of_each_reference(
    kinds, settings, monkeypatch
):
    family = kinds("llama")
    monkeypatch.setattr(prompt_scores, "PIECE", 259 * 11)  # many pieces
    with served(family, **settings) as llm:
        completions = scores(llm, family.requests)
    assert {c.token_ids for c in completions} == {()}
    assert {c.finish_reason for c in completions} == {"length"}
    assert {c.text for c in completions} == {""}
    for completion in completions:
        check(family, completion)


def test_scored_and_generating_requests_share_a_batch_and_change_nothing(kinds):
    family = kinds("llama")
    greedy = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True, logprobs=1)
    samplings = [
        replace(greedy, prompt_logprobs=(None, 0, 20)[i % 3]) for i in range(len(family.requests))
    ]
    with served(family) as llm:
        plain = scores(llm, family.requests, greedy)
        mixed = scores(llm, family.requests, samplings)
    for one, other, sampling in zip(plain, mixed, samplings, strict=True):
        assert one.token_ids == other.token_ids
        assert one.prompt_logprobs is None
        if sampling.prompt_logprobs is None:
            assert other.prompt_logprobs is None
        else:
            check(family, other)
            assert {len(e.top) for e in other.prompt_logprobs[1:]} <= {sampling.prompt_logprobs}


def test_requests_that_start_over_are_scored_once(kinds):
    family = kinds("llama")
    memory = 24 * BLOCK_BYTES / 1024**3
    sampling = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True, prompt_logprobs=1)
    with served(family, memory_gib=memory, expected_new_tokens=1, max_batch_tokens=20) as llm:
        completions = scores(llm, family.requests, sampling)
        assert llm.engine.stats().preemptions > 0
    for completion in completions:
        check(family, completion)


def test_a_shared_beginning_that_is_not_scored_is_computed_once(kinds):
    family = kinds("llama")
    begin = list(range(10, 90))
    requests = [([*begin, 100 + i, 7, 8, 9 + i], name) for name in (None, "dora") for i in range(4)]
    sampling = replace(SCORED, prompt_logprobs_from=len(begin))
    with served(family) as llm:
        first = scores(llm, requests[::4], sampling)
        rest = scores(llm, [r for i, r in enumerate(requests) if i % 4], sampling)
        hits = llm.engine.stats().prefix_hit_tokens
    # Token 80 is scored where token 79 is computed, which is in the last of the five blocks.
    assert hits == 6 * 64
    for completion in (*first, *rest):
        check(family, completion, first=len(begin))


def test_a_shared_beginning_is_scored_once(kinds):
    """The choices of a question share it: with others of their tenant, adapter and tokens only."""
    family = kinds("llama")
    begin = list(range(10, 90))
    names = [None, "lora", "loreft", "prefix"]
    requests = [([*begin, 100 + i, 7, 8, 9 + i], name) for name in names for i in range(4)]
    with served(family) as llm:
        first = scores(llm, requests[::4])
        assert llm.engine.stats().prefix_hit_tokens == 0
        rest = scores(llm, [r for i, r in enumerate(requests) if i % 4])
        # Token 80 is scored where token 79 is computed, which is in the last of the five blocks.
        hits = llm.engine.stats().prefix_hit_tokens
        assert hits == 4 * 3 * 64
        # More alternatives than are known: all is computed again, and then known.
        more = replace(SCORED, prompt_logprobs=5)
        again = [scores(llm, requests[3::4], more) for _ in range(2)]
        assert llm.engine.stats().prefix_hit_tokens == hits + 4 * 64
        fewer = scores(llm, requests[3::4], replace(SCORED, prompt_logprobs=0))
    assert all(not token.top for each in fewer for token in each.prompt_logprobs[1:])
    for completion in (*first, *rest, *again[0], *again[1], *fewer):
        check(family, completion)


def test_a_prompt_of_whole_blocks_that_is_known_whole_is_told_again(kinds):
    family = kinds("llama")
    requests = [(list(range(20, 52)), name) for name in (None, "shira")]
    with served(family) as llm:
        for _ in range(2):
            for completion in scores(llm, requests):
                check(family, completion)
        assert llm.engine.stats().prefix_hit_tokens == 2 * 16


def test_a_prompt_may_fill_the_context_where_it_is_only_scored(kinds):
    family = kinds("llama")
    prompt = [3 + i % 250 for i in range(512)]
    with served(family) as llm:
        (completion,) = llm.generate(prompt, sampling=SCORED)
        with pytest.raises(RequestError, match="context length is 512"):
            llm.generate([*prompt, 3], sampling=SCORED)
        with pytest.raises(RequestError, match="more than the 259 tokens"):
            llm.generate(prompt, sampling=replace(SCORED, prompt_logprobs=260))
    check(family, completion)
