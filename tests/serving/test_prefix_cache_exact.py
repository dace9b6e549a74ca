"""Answers with shared keys and values are those without, whatever kind of adapter made them."""

import random

import pytest
from kinds_case import GREEDY, Kinds

from gossamer.llm import LLM

# PEFT's SHiRA makes sparse tensors without saying whether they shall be checked.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

SHORT_CHUNKS = 15
"""Chunks below 16 tokens all take the same way through attention: the same bits."""

NETWORKS = ("houlsby", "sherl", "sherl-gated", "sherl-norms", "meft", "meft2", "meft3")
ROUNDED = (*NETWORKS, "tables")
"""Their matrices are multiplied by plain torch, whose last bits depend on the number of rows."""


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return Kinds(tmp_path_factory.mktemp("llama"), "llama")


def conversations(family):
    """(prompt, adapter): for every adapter a prompt, the same again, and longer ones."""
    rng = random.Random(3)
    system = [rng.randrange(3, 259) for _ in range(40)]
    found = []
    for name in (None, *dict.fromkeys(name for _, name in family.requests if name)):
        for length in (0, 0, 3, 30):
            found.append((system + [rng.randrange(3, 259) for _ in range(length)], name))
    return found


def answer(family, *, prefix_cache, together, **settings):
    """Answers, and how many prompt tokens were not computed."""
    requests = conversations(family)
    options = {"memory_gib": 0.05, "threads": 1, "prefix_cache": prefix_cache, **settings}
    with LLM(family.model, adapters=family.adapters, **options) as llm:
        groups = [requests] if together else [requests[i::4] for i in range(4)]
        done = {}
        for group in groups:
            prompts, names = zip(*group, strict=True)
            answers = llm.generate(list(prompts), adapter=list(names), sampling=GREEDY)
            done.update(zip(map(str, group), answers, strict=True))
        stats = llm.engine.stats()
    return [done[str(request)] for request in requests], stats.prefix_hit_tokens


def test_shared_prefixes_change_not_a_bit_where_chunks_take_one_way(family):
    settings = {"max_batch_tokens": SHORT_CHUNKS}
    shared, hits = answer(family, prefix_cache=True, together=False, **settings)
    alone, none = answer(family, prefix_cache=False, together=False, **settings)
    assert hits > 1000
    assert none == 0
    for one, other in zip(shared, alone, strict=True):
        assert one.token_ids == other.token_ids
        ours, theirs = ([t.logprob for t in each.logprobs] for each in (one, other))
        if one.adapter in ROUNDED:
            assert ours == pytest.approx(theirs, abs=1e-5)
        else:
            assert ours == theirs, one.adapter


def test_every_kind_says_what_its_reference_says_with_shared_prefixes(family):
    for together in (True, False):
        completions, hits = answer(family, prefix_cache=True, together=together)
        for completion in completions:
            family.check(completion)
    assert hits > 1000
