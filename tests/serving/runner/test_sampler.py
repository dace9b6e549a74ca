"""From logits to tokens: distributions against plain NumPy, seeds, penalties, log-probabilities."""

import random

import numpy as np
import pytest
import torch
from row_sampler import choose

from gossamer.serving.core.messages import SamplingParams
from gossamer.serving.device.cpu import CpuFetch
from gossamer.serving.runner.sampling import sampler
from gossamer.serving.runner.sampling.sampler import SamplingState

VOCAB = 40


def logits_of(size=VOCAB, seed=0, spread=2.0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread


def sample(logits, states):
    return sampler.choose(logits, states, CpuFetch).read()


def state(eos=(), **params):
    return SamplingState(SamplingParams(**params), tuple(eos))


def draw(logits, count, **params):
    """`count` tokens, each as if it were a first one; penalties see those before it."""
    one = state(**params)
    return [sample(logits.clone()[None], [one])[0].token_id for _ in range(count)]


def plain(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The distribution in float64, step by step: top_k, then top_p among those, then min_p."""
    scaled = logits.double().numpy() / temperature
    order = np.argsort(-scaled, kind="stable")
    kept = order[: top_k or None]
    p = np.exp(scaled[kept] - scaled.max())
    p /= p.sum()
    if top_p < 1:
        within = np.cumsum(p) - p < top_p
        within[0] = True
        kept, p = kept[within], p[within]
    keep = p >= min_p * p.max()
    kept, p = kept[keep], p[keep]
    result = np.zeros(len(scaled))
    result[kept] = p / p.sum()
    return result


CASES = {
    "all": {},
    "cool": {"temperature": 0.5},
    "hot": {"temperature": 3.0},
    "top_k": {"top_k": 5},
    "top_k-1": {"top_k": 1},
    "top_k-beyond-vocabulary": {"top_k": 1000},
    "top_p": {"top_p": 0.7},
    "tiny-top_p": {"top_p": 1e-300},
    "top_p-0": {"top_p": 0.0},
    "min_p": {"min_p": 0.1},
    "min_p-1": {"min_p": 1.0},
    "all-three": {"top_k": 12, "top_p": 0.9, "min_p": 0.05, "temperature": 1.7},
    "top_k-top_p": {"top_k": 8, "top_p": 0.8},
}


@pytest.mark.parametrize("params", CASES.values(), ids=CASES)
def test_distribution(params):
    logits = logits_of()
    want = plain(logits, **params)
    count = 2000
    seen = np.bincount(draw(logits, count, seed=1, **params), minlength=VOCAB)
    assert not seen[want == 0].any(), "a token outside the support"
    likely = want * count >= 5
    expected = want[likely] * count
    chi = ((seen[likely] - expected) ** 2 / expected).sum()
    freedom = max(likely.sum() - 1, 1)
    assert chi < freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 0.5), (0, 0.9), (0, 0.999), (0, 1.0), (300, 0.9), (900, 0.999)]
)
def test_a_nucleus_wider_than_the_first_guess(top_k, top_p):
    """A nearly flat distribution over 1,000 tokens: hundreds of candidates."""
    logits = logits_of(1000, spread=0.1)
    want = plain(logits, top_k=top_k, top_p=top_p)
    seen = np.bincount(draw(logits, 2000, seed=2, top_k=top_k, top_p=top_p), minlength=1000)
    # Rounding decides whether the last candidate of the nucleus is in.
    assert seen[want == 0].sum() <= 10
    assert np.count_nonzero(seen) > 0.8 * np.count_nonzero(want)
    # Halves of the support get their share.
    ranked = np.argsort(-want)[: np.count_nonzero(want)]
    half = ranked[: len(ranked) // 2]
    share = want[half].sum()
    assert abs(seen[half].sum() / 2000 - share) < 5 * np.sqrt(share * (1 - share) / 2000)


def test_greedy_is_the_largest_and_needs_no_seed():
    logits = torch.stack([logits_of(seed=i) for i in range(5)])
    choices = sample(logits.clone(), [state(temperature=0) for _ in range(5)])
    assert [c.token_id for c in choices] == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-5, 1e-40, 1e-300, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature):
    logits = logits_of(spread=20)
    assert set(draw(logits, 20, temperature=temperature, seed=0)) == {int(logits.argmax())}


def test_a_low_temperature_does_not_overflow():
    logits = logits_of() * 1e4
    assert set(draw(logits, 20, temperature=0.001, top_p=0.9, seed=0)) == {int(logits.argmax())}


def test_a_seed_gives_the_same_tokens_whoever_shares_the_batch():
    logits = [logits_of(seed=i) for i in range(6)]
    params = {"seed": 77, "temperature": 1.3, "top_p": 0.95, "frequency_penalty": 0.5}
    alone = state(**params)
    want = [sample(row.clone()[None], [alone])[0].token_id for row in logits]
    mine = state(**params)
    others = [state(seed=i, top_k=i) for i in range(7)]
    got = []
    for step, row in enumerate(logits):
        place = step % 4
        batch = [logits_of(seed=100 + step + i) for i in range(7)]
        states = [*others[:place], mine, *others[place:]]
        rows = [*batch[:place], row, *batch[place:]]
        got.append(sample(torch.stack(rows), states)[place].token_id)
    assert got == want
    assert len(set(want)) > 1


def test_different_seeds_and_no_seed_differ():
    logits = logits_of(spread=0.1)
    runs = [tuple(draw(logits, 12, seed=seed)) for seed in (1, 2, None, None)]
    assert len(set(runs)) == 4


def test_penalties_lower_what_was_generated():
    logits = logits_of()
    one = state(temperature=0, presence_penalty=0.5, frequency_penalty=0.25)
    reference = logits.double().clone()
    counts = np.zeros(VOCAB)
    for _ in range(60):
        want = reference - torch.tensor(0.5 * (counts > 0) + 0.25 * counts)
        token = sample(logits.clone()[None], [one])[0].token_id
        assert want[token] > want.max() - 1e-5
        counts[token] += 1
    assert (counts > 0).sum() > 3


def test_negative_penalties_raise_it():
    logits = logits_of(spread=0.01)
    tokens = draw(logits, 50, seed=0, presence_penalty=-2.0, frequency_penalty=-2.0)
    assert len(set(tokens[-30:])) == 1


def test_end_of_text_cannot_come_before_min_tokens():
    logits = logits_of()
    best = int(logits.argmax())
    second = int(logits.topk(2).indices[1])
    one = state(eos=(best, 3), temperature=0, min_tokens=4)
    tokens = [sample(logits.clone()[None], [one])[0].token_id for _ in range(6)]
    assert tokens == [second] * 4 + [best] * 2


def test_without_min_tokens_end_of_text_may_come_first():
    logits = logits_of()
    best = int(logits.argmax())
    assert sample(logits[None], [state(eos=(best,), temperature=0)])[0].token_id == best


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_logprobs_are_the_models_own(temperature):
    """Before temperature, penalties and cuts."""
    logits = logits_of()
    want = torch.log_softmax(logits.double(), -1)
    one = state(
        temperature=temperature, logprobs=5, seed=1, top_k=30, presence_penalty=2, min_tokens=9
    )
    for _ in range(4):
        choice = sample(logits.clone()[None], [one])[0]
        assert choice.logprob == pytest.approx(float(want[choice.token_id]), abs=1e-5)
        assert [t for t, _ in choice.top] == want.topk(5).indices.tolist()
        assert [v for _, v in choice.top] == pytest.approx(want.topk(5).values.tolist(), abs=1e-5)


def test_logprobs_of_the_chosen_token_only_and_of_none():
    with_none, with_zero = sample(
        logits_of().repeat(2, 1), [state(seed=1), state(seed=1, logprobs=0)]
    )
    assert with_none.logprob is None
    assert with_zero.logprob is not None
    assert with_zero.top == ()


def test_more_logprobs_than_tokens():
    (choice,) = sample(logits_of(6)[None], [state(logprobs=20)])
    assert len(choice.top) == 6


def test_output_that_is_no_number_gives_no_token_and_spares_the_others():
    rows = torch.stack([logits_of(), logits_of(), logits_of(), logits_of()])
    rows[1, 5] = float("nan")
    rows[2, 7] = float("inf")
    rows[3] = float("-inf")
    states = [state(temperature=t, seed=0, presence_penalty=0.1) for t in (0, 1, 0, 1)]
    choices = sample(rows, states)
    assert [choice is None for choice in choices] == [False, True, True, True]
    assert [one.counts.total() for one in states] == [1, 0, 0, 0]


def test_forbidden_tokens_are_never_drawn():
    logits = logits_of()
    logits[10:] = float("-inf")
    assert max(draw(logits, 300, seed=0, temperature=2.0)) < 10


def test_no_rows():
    assert sample(torch.zeros(0, VOCAB), []) == []


def random_params(rng):
    return {
        "temperature": rng.choice([0, 1e-5, 0.2, 0.7, 1.0, 1.0, 1.7, rng.uniform(0.05, 3)]),
        "top_p": rng.choice([1.0, 1.0, 0.9, 0.5, 0.99, 0.999, 1e-300, 0.0, rng.uniform(0.01, 1)]),
        "top_k": rng.choice([0, 0, 1, 5, 40, 255, 256, 257, 300, 2000]),
        "min_p": rng.choice([0, 0, 0.05, 0.5, 1.0]),
        "presence_penalty": rng.choice([0, 0, 0.5, -1]),
        "frequency_penalty": rng.choice([0, 0, 0.3]),
        "min_tokens": rng.choice([0, 0, 2]),
        "seed": rng.randrange(10**6),
    }


@pytest.mark.parametrize("sets", [1500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_rows_of_one_batch_are_sampled_as_each_alone(sets):
    """The same tokens for the same seeds, whatever their neighbours ask for."""
    rng = random.Random(sets)
    generator = torch.Generator().manual_seed(sets)
    forbidden = (1, 2)
    done = different = 0
    while done < sets:
        vocabulary = rng.choice([40, 300, 1000, 3000])
        states = [state(forbidden, **random_params(rng)) for _ in range(rng.randint(1, 40))]
        alone = [random.Random(each.params.seed) for each in states]
        generated = [[] for _ in states]
        for _ in range(3):
            logits = torch.randn(len(states), vocabulary, generator=generator)
            logits *= rng.choice([0.5, 2, 6])
            tokens = [choice.token_id for choice in sample(logits.clone(), states)]
            for row, each in enumerate(states):
                expected = choose(logits[row], each.params, generated[row], alone[row], forbidden)
                different += tokens[row] != expected
                generated[row].append(tokens[row])
        done += len(states)
    # Where a draw falls on the very border of two tokens, the order of a sum decides.
    assert different <= 3 * sets // 10_000


def test_a_row_of_no_numbers_says_nothing_and_the_others_do():
    logits = torch.stack([logits_of(), torch.full((VOCAB,), float("nan")), logits_of(seed=1)])
    logits[2, 3] = float("inf")
    found = sample(logits.clone(), [state(temperature=0), state(), state()])
    assert [choice is None for choice in found] == [False, True, True]
    assert found[0].token_id == int(logits[0].argmax())
