"""Several models score the same texts in one batch, each as transformers does."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from gossamer.evaluation.scorer import Continuation, Scorer
from gossamer.serving.core.messages import SamplingParams

MODELS = (None, "a", "b")
QUESTION = tuple(range(40, 90))
PAIRS = [
    Continuation(QUESTION, (5, 6, 7)),
    Continuation((9,), (12, 13)),
    Continuation(QUESTION, (8,)),
    Continuation(QUESTION, (5, 6, 7)),
    Continuation((9, 10), (70,) * 30),
]


@pytest.fixture(scope="module")
def references(tiny_model, adapters_to_score):
    """The base model, and with each adapter merged."""
    found = {}
    for name in MODELS:
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        if name is not None:
            model = PeftModel.from_pretrained(model, adapters_to_score / name).merge_and_unload()
        found[name] = model.eval()
    return found


@torch.inference_mode()
def expected(model, pair):
    tokens = torch.tensor([[*pair.context, *pair.text]])
    logits = model(tokens).logits[0, len(pair.context) - 1 : -1].log_softmax(-1)
    own = torch.tensor(pair.text)
    return float(logits.gather(1, own[:, None]).sum()), bool((logits.argmax(-1) == own).all())


def test_all_models_score_as_transformers_does(llm, references):
    found = Scorer(llm, MODELS).logprobs(PAIRS)
    assert list(found) == list(MODELS)
    for name, scores in found.items():
        for pair, score in zip(PAIRS, scores, strict=True):
            logprob, is_greedy = expected(references[name], pair)
            assert score.logprob == pytest.approx(logprob, abs=1e-3)
            assert score.is_greedy == is_greedy
    # The question was computed once for each model: three of its four blocks for its other text.
    assert llm.engine.stats().prefix_hit_tokens == len(MODELS) * 48


def test_the_likeliest_text_is_greedy(llm):
    scorer = Scorer(llm, ["a"])
    sampling = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
    (said,) = llm.generate(list(QUESTION), adapter="a", sampling=sampling)
    (score,) = scorer.logprobs([Continuation(QUESTION, said.token_ids)])["a"]
    assert score.is_greedy


def test_answers_are_in_the_order_of_prompts(llm, monkeypatch):
    monkeypatch.setattr("gossamer.evaluation.scorer.WINDOW", 6)
    prompts = [(40, 41, 42), (50,), QUESTION, (60, 61), (7,)]
    sampling = [SamplingParams(max_tokens=4, temperature=0) for _ in prompts]
    found = Scorer(llm, MODELS).answers(prompts, sampling)
    for name in MODELS:
        alone = llm.generate([list(p) for p in prompts], adapter=name, sampling=sampling[0])
        assert found[name] == [each.text for each in alone]


@pytest.mark.parametrize(
    ("context", "text", "most", "kept"),
    [
        ((1, 2, 3), (4, 5), 9, ((1, 2, 3), (4, 5))),
        ((1, 2, 3), (4, 5), 4, ((2, 3), (4, 5))),
        ((1, 2, 3), (4, 5), 3, ((3,), (4, 5))),
        ((1,), (4, 5, 6, 7), 3, ((5,), (6, 7))),
    ],
)
def test_long_texts_lose_their_beginning_and_keep_one_token_before(context, text, most, kept):
    pair = Continuation(context, text).cut(most)
    assert (pair.context, pair.text) == kept
