"""How many steps, which rows, which learning rate."""

from collections import Counter
from itertools import islice

import pytest

from gossamer.training.plan import RowOrder, make_plan, rate_factor
from gossamer.training.settings import RunSettings


def plan(rows, **settings):
    return make_plan(RunSettings(model="m", data="d", output="o", **settings), rows)


def test_epochs_cover_every_row_that_often():
    made = plan(10, epochs=3, batch_size=4)
    assert (made.steps, made.num_samples, made.epochs) == (8, 30, 3)
    assert Counter(RowOrder(made, seed=1)) == dict.fromkeys(range(10), 3)


def test_a_part_of_an_epoch():
    made = plan(10, epochs=0.5, batch_size=2)
    assert made.steps == 3
    assert len(set(RowOrder(made, seed=1))) == 5


def test_max_steps_rules_over_epochs():
    made = plan(5, max_steps=7, epochs=100, batch_size=2, gradient_accumulation=3)
    assert (made.steps, made.rows_per_step, made.num_samples) == (7, 6, 42)


def test_order_depends_on_the_seed_alone_and_differs_between_epochs():
    made = plan(20, epochs=2)
    first = list(RowOrder(made, seed=1))
    assert first == list(RowOrder(made, seed=1))
    assert first != list(RowOrder(made, seed=2))
    assert first[:20] != first[20:]


def test_a_longer_run_begins_like_a_shorter_one():
    short, long = plan(7, max_steps=3, batch_size=4), plan(7, max_steps=30, batch_size=4)
    assert list(RowOrder(short, seed=5)) == list(islice(RowOrder(long, seed=5), 12))


@pytest.mark.parametrize(("warmup", "steps"), [(0, 0), (0.1, 10), (0.001, 1), (25, 25)])
def test_warmup_is_a_share_or_a_number_of_steps(warmup, steps):
    assert plan(8, max_steps=100, warmup=warmup).warmup_steps == steps


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 4, 100])
def test_the_learning_rate_is_never_zero_nor_above_its_peak(scheduler, warmup):
    made = plan(8, max_steps=20, warmup=warmup)
    factors = [rate_factor(step, plan=made, scheduler=scheduler) for step in range(20)]
    assert all(0 < factor <= 1 for factor in factors)
    rising = factors[: min(warmup, 20)]
    assert rising == sorted(rising)
    falling = factors[warmup:]
    assert falling == sorted(falling, reverse=True)
    if warmup < 20:
        assert falling[0] == 1
