"""Two jobs of a benchmark that take steps in turn."""

import pytest
from benchmarks.turns import take_turns


def job(name, count, log):
    def run(after_step):
        after_step()
        for _ in range(count):
            log.append(name)
            after_step()

    return run


def test_steps_alternate_and_are_timed_in_pairs():
    log = []
    steps = take_turns(job("a", 5, log), job("b", 5, log))
    assert log == ["a", "b"] * 5
    assert len(steps) == 5
    assert all(seconds > 0 for pair in steps for seconds in pair)


@pytest.mark.parametrize(("first", "second"), [(2, 6), (6, 2)])
def test_who_is_left_alone_goes_on_untimed(first, second):
    log = []
    steps = take_turns(job("a", first, log), job("b", second, log))
    assert (log.count("a"), log.count("b")) == (first, second)
    assert len(steps) == 2


def test_an_error_of_one_ends_the_other_and_is_raised():
    def fails(after_step):
        after_step()
        raise RuntimeError("no step")

    log = []
    with pytest.raises(RuntimeError, match="no step"):
        take_turns(fails, job("b", 3, log))
    assert log == ["b"] * 3
