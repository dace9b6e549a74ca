"""How much is gone after which step."""

import pytest

from gossamer.methods.loraprune.schedule import is_due, last_pruning, ratio_at, removed, share_of

COURSE = {"warmup": 0.1, "recovery": 0.1}


def test_the_ratio_rises_as_a_cube():
    at = [ratio_at(step, 100, final=0.5, **COURSE) for step in (0, 10, 50, 90, 100)]
    assert at == pytest.approx([0, 0, 0.5 * (1 - 0.5**3), 0.5, 0.5], abs=1e-12)
    # The last two exactly, so that as many groups go as the final ratio says.
    assert at[3] == at[4] == 0.5
    course = [ratio_at(step, 100, final=0.5, **COURSE) for step in range(101)]
    assert course == sorted(course)


def test_pruning_ends_with_the_final_ratio():
    """Of 390 steps the released code prunes last at 350, and then one channel in a hundred less."""
    due = [step for step in range(1, 391) if is_due(step, 390, interval=10, **COURSE)]
    assert due == [*range(40, 351, 10), 351]
    assert last_pruning(390, 0.1) == 351
    assert ratio_at(350, 390, final=0.5, **COURSE) < 0.5
    assert ratio_at(351, 390, final=0.5, **COURSE) == 0.5


@pytest.mark.parametrize(("total", "recovery", "last"), [(100, 0.1, 90), (4, 0.1, 4), (7, 0.0, 7)])
def test_there_is_a_last_pruning_in_any_run(total, recovery, last):
    assert last_pruning(total, recovery) == last
    assert is_due(last, total, interval=10, warmup=0.0, recovery=recovery)


def test_counts_are_rounded_down_but_not_by_rounding_errors():
    assert [removed(0.5, n) for n in (1, 2, 3, 100)] == [0, 1, 1, 50]
    # In floating point the product is 28.000000000000004 or 27.999999999999996.
    assert removed(0.28, 100) == removed(0.07, 400) == 28
    assert removed(0.29, 100) == 29


def test_a_remedy_in_few_digits_removes_what_it_says():
    assert [share_of(1, n) for n in (2, 3, 100, 150)] == [0.5, 0.34, 0.01, 0.01]
    assert share_of(52, 78) == 0.67
    for count in range(2, 300):
        for gone in {1, count // 2, count - 1} - {0}:
            assert removed(share_of(gone, count), count) == gone
            assert share_of(gone, count) < 1
