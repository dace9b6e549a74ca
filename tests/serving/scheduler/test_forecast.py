"""Predictions from measured steps, and who is refused on their ground."""

import pytest
from policy_fakes import World

from gossamer.errors import OverloadedError
from gossamer.serving.scheduler.deadlines import FirstTokenPolicy, Flows
from gossamer.serving.scheduler.forecast import Forecast, Load


def load(**values):
    return Load(**{"prompt_tokens_left": 0, "chunk": 100, "free_places": 9, "places": 9, **values})


def test_nothing_measured_nothing_predicted():
    forecast = Forecast()
    assert forecast.prompt_seconds(10_000, 1) == 0
    full = load(free_places=0)
    assert forecast.first_token_seconds(ahead=999, position=50, own=999, load=full) == 0


def test_speed_is_learnt_from_steps():
    forecast = Forecast()
    for _ in range(60):
        forecast.record_step(prompt_tokens=0, seconds=0.1)
        forecast.record_step(prompt_tokens=50, seconds=0.6)
        forecast.record_step(prompt_tokens=100, seconds=1.1)
    assert forecast.seconds_per_prompt_token == pytest.approx(0.01, rel=0.01)
    # 250 tokens in chunks of 100: three steps.
    assert forecast.prompt_seconds(250, 100) == pytest.approx(3 * 0.1 + 2.5, rel=0.01)


def test_it_follows_a_machine_that_becomes_slower():
    forecast = Forecast()
    for seconds in [0.1] * 30 + [0.5] * 60:
        forecast.record_step(prompt_tokens=10, seconds=seconds)
    assert forecast.seconds_per_prompt_token == pytest.approx(0.05, rel=0.02)


def test_waiting_for_places_counts_only_when_there_are_none():
    forecast = Forecast()
    forecast.record_residence(8.0)
    assert forecast.place_seconds(3, load(free_places=4)) == 0
    # Of eight places one is free every second on the mean; half of it is taken for sure.
    assert forecast.place_seconds(3, load(free_places=0, places=8)) == pytest.approx(2.0)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def world(clock, slo=2.0, **limits):
    policy = {"promise": FirstTokenPolicy(slo=slo), "clock": clock}
    limits = {"max_batch_tokens": 100, "max_running": 50, "expected_new_tokens": 8, **limits}
    made = World(2000, policy=policy, **limits)
    # A token of a prompt takes 10 ms here, so a promise of 2 s is worth 200 of them.
    made.scheduler.forecast.record_step(prompt_tokens=100, seconds=1.0)
    return made


def test_who_cannot_be_in_time_is_refused_on_arrival_with_a_hint():
    clock = Clock()
    served = world(clock)
    fits, late = served.add(150, 2), served.add(250, 2)
    served.step()
    ((refused, error),) = served.refused
    assert refused is late
    assert type(error) is OverloadedError
    assert error.retry_after >= 1
    assert "the first token would come" in str(error)
    assert "promises 2 s" in str(error)
    assert fits in served.scheduler.running
    assert served.scheduler.usage.of("default").refused["deadline"] == 1


def test_the_queue_ahead_counts():
    clock = Clock()
    served = world(clock, max_running=1)
    served.scheduler.forecast.record_residence(0.0)
    sequences = [served.add(60, 2) for _ in range(6)]
    served.step()
    # One is computed; two more, 1.2 s of prompts, can be in time after it, the others cannot.
    kept = [s for s in sequences if s in served.scheduler.running or s in served.scheduler.waiting]
    assert len(kept) == 3
    assert len(served.refused) == 3


def test_time_spent_waiting_counts():
    clock = Clock()
    served = world(clock, max_running=1)
    served.add(50, 40)
    served.step()
    waiting = served.add(50, 2)
    served.step()
    assert waiting in served.scheduler.waiting
    clock.now = 1.6
    served.step()
    assert [sequence for sequence, _ in served.refused] == [waiting]


def test_who_has_begun_is_never_refused():
    clock = Clock()
    served = World(
        10,
        policy={"promise": FirstTokenPolicy(slo=1.0), "clock": clock},
        expected_new_tokens=1,
    )
    sequences = [served.add(4, 30) for _ in range(3)]
    for _ in range(2000):
        clock.now += 0.01
        served.scheduler.forecast.record_step(prompt_tokens=4, seconds=0.01)
        if not served.step():
            break
    assert served.scheduler.num_preemptions > 0
    begun = [s for s in sequences if s.num_generated]
    assert begun
    assert set(begun) == set(served.done)


def test_without_a_promise_nobody_is_refused():
    served = World(2000, max_running=1)
    served.scheduler.forecast.record_step(prompt_tokens=1, seconds=1000.0)
    for _ in range(5):
        served.add(50, 2)
    served.steps()
    assert len(served.done) == 5


def test_flows_tell_a_flood_from_a_lull():
    clock = Clock()
    flows = Flows(0.5, clock)
    for _ in range(10):
        for _ in range(8):
            flows.arrived("a")
        for _ in range(3):
            flows.started("a")
            flows.arrived("b")
            flows.started("b")
        clock.now += 0.5
    assert flows.is_flooded("a")
    assert not flows.is_flooded("b")
    assert not flows.is_flooded("unknown")
    for _ in range(4):
        for _ in range(5):
            flows.started("a")
        clock.now += 0.5
    assert not flows.is_flooded("a")
    clock.now += 60
    assert not flows.is_flooded("a")
    assert not flows._flows
