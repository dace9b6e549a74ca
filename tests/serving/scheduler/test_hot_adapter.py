"""When an adapter is hot: late, not twice at once, and not because of a moment."""

import random

from gossamer.serving.scheduler.hot_merge import MAX_BARRED, HotAdapterPolicy, HotLimits


def policy(window=10):
    return HotAdapterPolicy(HotLimits(window=window))


def feed(policy, steps, **tokens):
    """`steps` steps of these tokens by adapter; `other` tokens are of nobody that can be merged."""
    total = sum(tokens.values())
    tokens.pop("other", None)
    for _ in range(steps):
        policy.record(tokens, total)


def test_hot_after_a_full_window_with_the_share():
    one = policy()
    feed(one, 9, a=9, other=1)
    assert one.hot is None
    feed(one, 1, a=9, other=1)
    assert one.hot == "a"
    assert one.num_chosen == 1


def test_less_than_the_share_is_not_hot():
    one = policy()
    feed(one, 100, a=89, other=11)
    assert one.hot is None


def test_other_adapters_count_as_others():
    one = policy()
    feed(one, 100, a=8, b=2)
    assert one.hot is None
    feed(one, 100, a=19, b=1)
    assert one.hot == "a"


def test_stays_hot_down_to_the_lower_share():
    one = policy()
    feed(one, 10, a=10)
    feed(one, 100, a=5, b=5)
    assert one.hot == "a"
    feed(one, 10, a=4, b=6)
    assert one.hot is None
    assert (one.num_chosen, one.num_dropped) == (1, 1)


def test_shares_are_of_tokens_not_of_steps():
    one = policy()
    feed(one, 9, a=1)
    feed(one, 1, other=512)
    assert one.hot is None


def test_a_full_window_lies_between_two_choices():
    one = policy()
    feed(one, 10, a=1)
    one.drop()
    assert one.hot is None
    feed(one, 9, a=1)
    assert one.hot is None
    feed(one, 1, a=1)
    assert one.hot == "a"


def test_another_adapter_takes_over():
    one = policy()
    feed(one, 10, a=4)
    feed(one, 16, b=4)
    assert one.hot == "b"
    assert (one.num_chosen, one.num_dropped) == (2, 1)


def test_what_cannot_be_merged_is_not_named_again():
    one = policy(window=2)
    for number in range(MAX_BARRED):
        feed(one, 2, **{f"a{number}": 1})
        assert one.hot == f"a{number}"
        one.drop(bar=True)
    feed(one, 50, a3=1)
    assert one.hot is None
    feed(one, 50, b=1)
    assert one.hot == "b"


def test_never_flaps_whatever_comes():
    """Random traffic around both bounds: at least a window between choices, and no leak."""
    rng = random.Random(1)
    one = policy(window=16)
    last_choice = -16
    for step in range(20_000):
        mood = (0.95, 0.9, 0.7, 0.5, 0.45, 0.0)[step // 40 % 6]
        hot = sum(rng.random() < mood for _ in range(8))
        before = one.num_chosen
        feed(one, 1, a=hot, b=rng.randrange(2), other=8 - hot)
        if one.num_chosen > before:
            assert step - last_choice >= 16
            last_choice = step
    assert 0 < one.num_dropped <= one.num_chosen <= one.num_dropped + 1
    # Once or less in each round of moods.
    assert one.num_chosen <= 20_000 / 240 + 1
    assert len(one._steps) <= 16
    assert sum(one._tokens.values()) <= one._total


def test_idle_steps_share_nothing():
    one = policy(window=2)
    feed(one, 5, other=0)
    assert one.hot is None
    assert one.share("a") == 0
