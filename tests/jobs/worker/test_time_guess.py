"""How long a run may take where none was measured."""

import pytest

from gossamer.jobs.worker import time_guess
from gossamer.jobs.worker.time_guess import seconds_range


@pytest.fixture
def pace(monkeypatch):
    """A machine that does 1e9 operations a second, or half as many in bfloat16."""
    paces = {"float32": 1e9, "bfloat16": 5e8}
    monkeypatch.setattr(time_guess, "_operations_per_second", paces.get)


def test_a_range_grows_with_tokens_weights_and_the_cost_of_the_method(pace):
    least, most = seconds_range("lora", tokens=1000, weights=10**6, dtype="float32")
    assert (least, most) == (6.0, 32.0)
    assert seconds_range("lora", tokens=2000, weights=10**6, dtype="float32") == (12.0, 64.0)
    assert seconds_range("lora", tokens=1000, weights=10**6, dtype="bfloat16") == (12.0, 64.0)
    dearer, _ = seconds_range("dora", tokens=1000, weights=10**6, dtype="float32")
    assert dearer > least


def test_a_method_that_was_not_measured_counts_as_lora(pace):
    known = time_guess._costs()
    assert known["lora"] == 1.0
    assert "lora_of_tomorrow" not in known
    one = seconds_range("lora_of_tomorrow", tokens=1000, weights=10**6, dtype="float32")
    assert one == seconds_range("lora", tokens=1000, weights=10**6, dtype="float32")


def test_the_pace_is_that_of_this_machine():
    pace = time_guess._operations_per_second("float32")
    # From a very slow processor to far more than any.
    assert 1e8 < pace < 1e15
    assert time_guess._operations_per_second("float32") == pace
