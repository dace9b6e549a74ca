"""Adapters of every kind on a base in bfloat16 or float16 say nearly what they say in float32."""

import math

import pytest
from kinds_case import NAMES, Kinds

from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

# PEFT's SHiRA makes sparse tensors without saying whether they shall be checked.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

PROMPT = list(range(5, 25))
FIRST = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True, logprobs=20)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Qwen's layers have biases."""
    return Kinds(tmp_path_factory.mktemp("kinds"), "qwen2")


def log_probabilities(kinds, dtype):
    """Of the likeliest first tokens, by adapter: all in one batch."""
    names = [None, *NAMES]
    options = {"memory_gib": 0.05, "threads": 1, "dtype": dtype, "backend": "reference"}
    with LLM(kinds.model, adapters=kinds.adapters, **options) as llm:
        answers = llm.generate([PROMPT] * len(names), adapter=names, sampling=FIRST)
        states = {status.name: status.state for status in llm.engine.adapters()}
    assert states == dict.fromkeys(NAMES, "resident")
    return {
        name: {token: logprob for token, _, logprob in answer.logprobs[0].top}
        for name, answer in zip(names, answers, strict=True)
    }


@pytest.fixture(scope="module")
def exact(kinds):
    return log_probabilities(kinds, "float32")


def difference(one, other):
    """The largest of the tokens that both name; without end where they name no common one."""
    common = one.keys() & other.keys()
    return max((abs(one[token] - other[token]) for token in common), default=math.inf)


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.08), ("float16", 0.01)])
def test_every_kind_is_off_by_rounding_alone(kinds, exact, dtype, bound):
    found = log_probabilities(kinds, dtype)
    off = {name: difference(exact[name], found[name]) for name in found}
    assert max(off.values()) < bound, off
    # What an adapter does is more than that.
    assert all(difference(exact[None], exact[name]) > 2 * bound for name in NAMES)
