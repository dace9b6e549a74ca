"""The real model: ten unlike adapters and the base in one batch, against PEFT's merged models.

Strictly token for token: 64 greedy tokens of each request equal those of `generate` on a model with
the adapter merged, run alone; also in other orders, chunks and in a pool too small for all.
"""

import random

import pytest
import torch
from exactness import ADAPTERS
from peft import PeftModel
from transformers import AutoModelForCausalLM

from gossamer.basemodel.find import resolve
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

from tiny import make_lora

pytestmark = pytest.mark.slow

GREEDY = SamplingParams(max_tokens=64, temperature=0, ignore_eos=True)
PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a spider who",
    "def fibonacci(n):",
    "The three most important things about memory are",
    "Dear Sir or Madam,",
    "Water boils at",
    "In 1969, two people",
    "My favourite recipe begins with",
    "To repair a bicycle, first",
    "Q: What is 17 + 25?\nA:",
    "The opposite of warm is",
    "She opened the letter and",
)


@pytest.fixture(scope="module")
def base():
    return resolve("smollm2-135m")


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    for seed, (name, options) in enumerate(ADAPTERS.items()):
        # Few adapted matrices must change them more to change the answer.
        size = 0.5 if "targets" in options else 0.08
        make_lora(root / name, base, seed=seed, **{**options, "size": size})
    return root


@pytest.fixture(scope="module")
def requests(base):
    from gossamer.basemodel.load import load_tokenizer

    tokenizer = load_tokenizer(base)
    names = [None, *ADAPTERS, None]
    return [(tokenizer(text).input_ids, name) for text, name in zip(PROMPTS, names, strict=True)]


@pytest.fixture(scope="module")
def wanted(base, adapters, requests):
    """The greedy tokens of PEFT's merged model, each request alone."""
    return [alone(base, adapters, prompt, name) for prompt, name in requests]


@torch.inference_mode()
def alone(base, adapters, prompt, name):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if name is not None:
        model = PeftModel.from_pretrained(model, adapters / name).merge_and_unload()
    # No end of text: with `min_new_tokens` generate would forbid the token instead of ignoring it.
    model.generation_config.eos_token_id = None
    output = model.eval().generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=64,
        do_sample=False,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


def served(base, adapters, requests, **settings):
    """Tokens of each request, all in one batch; and the engine's counts."""
    prompts, names = zip(*requests, strict=True)
    with LLM(str(base), adapters=adapters, **{"memory_gib": 1.0, **settings}) as llm:
        completions = llm.generate(list(prompts), adapter=list(names), sampling=GREEDY)
        return [list(c.token_ids) for c in completions], llm.engine.stats()


def test_one_mixed_batch(base, adapters, requests, wanted):
    got, stats = served(base, adapters, requests)
    assert got == wanted
    assert stats.steps < 80, "the requests did not share their steps"
    assert len({tuple(tokens) for tokens in wanted}) == len(wanted)
    # What the adapters say differs from what the base says to the same prompt.
    for (prompt, name), tokens in zip(requests, wanted, strict=True):
        assert name is None or tokens != alone(base, adapters, prompt, None), name


@pytest.mark.parametrize("chunk", [7, 33])
def test_shuffled_arrival_and_other_chunks(base, adapters, requests, wanted, chunk):
    order = random.Random(chunk).sample(range(len(requests)), len(requests))
    got, _ = served(base, adapters, [requests[i] for i in order], max_batch_tokens=chunk)
    assert got == [wanted[i] for i in order]


def test_a_pool_too_small_for_all(base, adapters, requests, wanted):
    """Adapters are evicted and read again on the way."""
    with LLM(str(base), adapters=adapters, memory_gib=0.1) as llm:
        for _ in range(2):
            prompts, names = zip(*requests, strict=True)
            completions = llm.generate(list(prompts), adapter=list(names), sampling=GREEDY)
            assert [list(c.token_ids) for c in completions] == wanted
        stats = llm.engine.stats()
    assert stats.adapter_evictions > 0
    assert stats.adapter_loads > len(ADAPTERS)


def test_the_base_does_not_feel_the_adapters(base, adapters, requests):
    """Base-only requests: the same tokens as from a server without adapters."""
    base_only = [request for request in requests if request[1] is None]
    without, _ = served(base, None, base_only)
    mixed, _ = served(base, adapters, requests)
    assert [mixed[0], mixed[-1]] == without
