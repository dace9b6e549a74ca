"""The real model: an adapter of every kind in one batch, against plain PEFT alone."""

import pytest
from kinds_case import NAMES, TABLE_CONFIGS, Kinds, answers

from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_tokenizer
from gossamer.llm import LLM

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]

PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a spider who",
    "def fibonacci(n):",
    "The three most important things about memory are",
    "Water boils at",
    "Q: What is 17 + 25?\nA:",
)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    # A random prefix before thirty layers makes rounding grow.
    return Kinds(
        tmp_path_factory.mktemp("kinds"), model=resolve("smollm2-135m"), size=0.2, rounding=1e-2
    )


@pytest.fixture(scope="module")
def requests(family):
    tokenizer = load_tokenizer(family.model)
    names = [None, *NAMES, None, "lora", "dora", "loreft"]
    return [
        (tokenizer(PROMPTS[number % len(PROMPTS)]).input_ids, name)
        for number, name in enumerate(names)
    ]


def test_one_batch_of_all_kinds_on_the_real_model(family, requests):
    with LLM(
        str(family.model), adapters=family.adapters, memory_gib=1.0, max_batch_tokens=33
    ) as llm:
        completions = answers(llm, requests)
        plain = answers(llm, [(prompt, None) for prompt, _ in requests])
    changed = set()
    for completion, base in zip(completions, plain, strict=True):
        family.check(completion)
        # A copy of the real model for each adapter would not fit.
        family._references.clear()
        if completion.token_ids != base.token_ids:
            changed.add(completion.adapter)
    # A small adapter may leave some answer as it was, but each of them changes one.
    # Few tokens have rows of their own, and they may occur in none; so it may be with small changes
    # of tables.
    assert changed | {"tokens", *TABLE_CONFIGS} == set(NAMES)
