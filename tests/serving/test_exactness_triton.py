"""The whole engine on GPU kernels, interpreted on this CPU, says what plain torch says."""

from dataclasses import replace

import pytest
from kinds_case import GREEDY, NAMES
from launches.interpreted import call_at_once

from gossamer.errors import SettingError
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

call_at_once()
# PEFT's SHiRA makes sparse tensors without saying whether they shall be checked.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")


SOME = [None, "dora", "smt", "loreft", "prefix-21", "biases", "tables", "houlsby", "sherl", "meft"]


def said(family, backend, requests, sampling, **settings):
    """The tokens and their log-probabilities that `backend` gives for (prompt, adapter) pairs."""
    prompts, names = zip(*requests, strict=True)
    options = {"memory_gib": 0.05, "threads": 1, "backend": backend, **settings}
    with LLM(family.model, adapters=family.adapters, **options) as llm:
        completions = llm.generate(list(prompts), adapter=list(names), sampling=sampling)
        llm.engine.audit()
    return completions


def check_equal(family, requests, sampling, **settings):
    want = said(family, "reference", requests, sampling)
    got = said(family, "triton", requests, sampling, **settings)
    for one, other, (_, name) in zip(want, got, requests, strict=True):
        assert other.token_ids == one.token_ids, name
        assert other.logprobs is not None
        assert one.logprobs is not None
        for token, reference in zip(other.logprobs, one.logprobs, strict=True):
            assert abs(token.logprob - reference.logprob) < 1e-4, name


@pytest.mark.parametrize(
    ("names", "max_tokens"),
    [
        (SOME, 2),
        pytest.param(
            [None, "lora", "dora", "ia3", "shira", "smt", "loreft", "prefix-21", "norms", "tokens"],
            3,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["some", "all"],
)
def test_one_batch_of_what_adapters_do(kinds, names, max_tokens):
    """Qwen2 has biases; the answers come from a chunked prefill and from padded decode steps."""
    requests = [(f"Say {n} please"[: 5 + n], name) for n, name in enumerate(names)]
    check_equal(kinds("qwen2"), requests, replace(GREEDY, max_tokens=max_tokens))


def test_draws_and_penalties_of_a_seed(kinds):
    sampling = SamplingParams(
        max_tokens=3, seed=5, temperature=0.9, top_p=0.8, presence_penalty=0.5, logprobs=1
    )
    check_equal(kinds("qwen2"), [("Say", "lora-qv"), ("No", None)], sampling)


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [
        pytest.param("bfloat16", 0.08, marks=pytest.mark.slow),
        pytest.param("float16", 0.01, marks=pytest.mark.slow),
    ],
)
def test_short_number_formats(kinds, dtype, bound):
    """The first token of each: later ones differ where two candidates are nearly as likely."""
    family = kinds("qwen2")
    requests = [("Say it", name) for name in ("lora", "dora", "ia3", None)]
    first = replace(GREEDY, max_tokens=1)
    want = said(family, "reference", requests, first)
    got = said(family, "triton", requests, first, dtype=dtype)
    for one, other in zip(want, got, strict=True):
        assert abs(other.logprobs[0].logprob - one.logprobs[0].logprob) < bound


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_one_batch_of_all_kinds(kinds, family):
    family = kinds(family)
    assert {name for _, name in family.requests} >= set(NAMES)
    check_equal(family, family.requests, replace(GREEDY, max_tokens=4))


@pytest.mark.slow
def test_rows_of_int8_small_blocks_and_memory_in_which_adapters_come_and_go(kinds):
    family = kinds("llama")
    requests = family.requests[:20]
    want = said(family, "reference", requests, replace(GREEDY, max_tokens=3), adapter_rows="int8")
    got = said(
        family, "triton", requests, replace(GREEDY, max_tokens=3), adapter_rows="int8",
        block_tokens=8, memory_gib=0.002, max_running=6,
    )  # fmt: skip
    assert [each.token_ids for each in got] == [each.token_ids for each in want]


def test_merging_into_weights_is_for_processors(kinds):
    with pytest.raises(SettingError, match="merge_hot"):
        said(kinds("qwen2"), "triton", [("a", None)], GREEDY, merge_hot=True)
