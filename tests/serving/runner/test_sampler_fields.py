"""What requests favour and forbid: biases, repeated tokens, bad words, ends that come too early."""

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from gossamer.serving.core.messages import SamplingParams
from gossamer.serving.device.cpu import CpuFetch
from gossamer.serving.runner.sampling.sampler import SamplingState, choose

VOCAB = 40


def logits_of(seed=0):
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


def state(ends=(), prompt=(), bad_words=(), **params):
    return SamplingState(SamplingParams(temperature=0, **params), tuple(ends), prompt, bad_words)


def greedy(logits, states):
    """The tokens of one step of rows that all begin with `logits`."""
    rows = logits.repeat(len(states), 1)
    return [choice.token_id for choice in choose(rows, states, CpuFetch).read()]


def test_biases_are_added_for_each_row_alone():
    logits = logits_of()
    best, second = logits.topk(2).indices.tolist()
    gap = float(logits[best] - logits[second])
    states = [
        state(),
        state(logit_bias={best: -gap - 0.01}),
        state(logit_bias={best: -gap + 0.01}),
        state(logit_bias={7: 100.0, 8: 50.0}),
        state(),
    ]
    assert greedy(logits, states) == [best, second, best, 7, best]


def test_log_probabilities_are_those_of_the_model_itself():
    logits = logits_of()
    one = state(logit_bias={7: 100.0}, repetition_penalty=2.0, prompt=(7,), logprobs=1)
    (choice,) = choose(logits[None].clone(), [one], CpuFetch).read()
    assert choice.token_id == 7
    assert choice.logprob == pytest.approx(float(torch.log_softmax(logits, -1)[7]), abs=1e-6)


@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_repetition_is_penalised_as_transformers_does(penalty):
    prompt = [3, 5, 5, 9]
    one, seen = state(prompt=prompt, repetition_penalty=penalty), list(prompt)
    reference = RepetitionPenaltyLogitsProcessor(penalty)
    for step in range(12):
        logits = logits_of(step)
        expected = int(reference(torch.tensor([seen]), logits[None].clone()).argmax())
        assert greedy(logits, [one]) == [expected]
        seen.append(expected)


def test_bad_words_are_forbidden_where_their_beginning_was_generated():
    favoured = [4, 9, 4, 9, 9]
    free, one, two = state(), state(bad_words=((4,),)), state(bad_words=((4, 9), (9, 4, 9)))
    chosen = []
    for token in favoured:
        logits = torch.zeros(VOCAB)
        logits[token], logits[1] = 5.0, 1.0
        chosen.append(greedy(logits, [free, one, two]))
    assert [row[0] for row in chosen] == favoured
    assert [row[1] for row in chosen] == [1, 9, 1, 9, 9]
    # 9 must not follow 4; where 1 came in between, it may.
    assert [row[2] for row in chosen] == [4, 1, 4, 1, 9]
    assert two.needs_counts
    assert not one.needs_counts


def test_ends_wait_for_min_tokens():
    logits = logits_of()
    best, second = logits.topk(2).indices.tolist()
    one = state(ends=(best,), min_tokens=2)
    assert [greedy(logits, [one])[0] for _ in range(3)] == [second, second, best]
