"""The time that all runs of a comparison take, as far as that of each is known."""

import pytest

from gossamer.jobs.queue.needs import comparison_needs

RUN = {
    "rows": 10,
    "tokens": 100,
    "device": "cpu",
    "steps": 5,
    "memory": 1000,
    "memory_parts": {"weights": 1000},
    "adapter_bytes": 10,
    "disk": 50,
}


@pytest.mark.parametrize(
    ("times", "seconds", "span"),
    [
        ([{"seconds": 10.0}, {"seconds": 30.0}], 80.0, None),
        ([{"seconds": 10.0}, {"seconds_range": [20.0, 50.0]}], None, [60.0, 120.0]),
        ([{"seconds_range": [5.0, 6.0]}, {"seconds_range": [20.0, 50.0]}], None, [50.0, 112.0]),
        ([{"seconds": 10.0}, {"seconds": None, "seconds_range": None}], None, None),
        ([{}, {}], None, None),
    ],
)
def test_times_add_up_for_each_seed(times, seconds, span):
    found = comparison_needs([RUN | each for each in times], seeds=2)
    assert (found["seconds"], found["seconds_range"]) == (seconds, span)
