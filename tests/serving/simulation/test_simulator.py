"""Traffic in the simulator: the shapes that S-LoRA's evaluation found, by the real scheduler."""

from dataclasses import replace
from functools import cache

import pytest

from gossamer.serving.loadtest.workload import Workload
from gossamer.serving.scheduler.deadlines import FirstTokenPolicy
from gossamer.serving.simulation.outcomes import summarize
from gossamer.serving.simulation.simulator import Machine, Simulator
from gossamer.serving.simulation.step_model import StepModel

SLO = 1.5
RANKS = (64, 32, 16, 8)
# A 7B model on a small GPU. Lengths below are a quarter of S-LoRA's and requests four times as
# many, so that a test takes a second; the promise is a quarter of theirs.
MACHINE = Machine(
    step=StepModel(
        base=0.0275,
        prompt_token=0.00025,
        decode=0.0005,
        context_token=1.2e-6,
        rank=5.5e-6,
        any_adapter=0.0035,
    ),
    num_blocks=1000,
    block_bytes=8 * 2**20,
    bytes_per_rank=2 * 2**20,
    base_bytes=13_500_000_000,
    load_bytes_per_second=8e9,
    max_batch_tokens=2048,
    max_running=32,
)
POLICIES = {
    "fifo": None,
    "lifo": FirstTokenPolicy(slo=SLO, order="newest", refuses=False),
    "abort": FirstTokenPolicy(slo=SLO),
}


def ranks_of(count):
    return [RANKS[i % len(RANKS)] for i in range(count)]


@cache
def replayed(policy="fifo", *, cv=1.0, adapters=100, rate=8.0, duration=90.0, machine=MACHINE):
    workload = Workload(
        adapters=max(1, adapters),
        cv=cv,
        rate=rate,
        duration=duration,
        max_prompt=127,
        max_output=127,
        seed=3,
    )
    simulator = Simulator(machine, ranks_of(adapters) or [0], promise=POLICIES[policy])
    replay = simulator.run(workload.trace())
    return replay, summarize(replay.outcomes, SLO)


def pace(replay):
    """New tokens per second of computing."""
    return sum(outcome.output_tokens for outcome in replay.outcomes) / replay.busy_seconds


@pytest.mark.parametrize("cv", [1.0, 4.0, 8.0])
def test_newest_first_beats_order_of_arrival_and_refusing_beats_both(cv):
    fifo, lifo, abort = (replayed(policy, cv=cv) for policy in POLICIES)
    assert fifo[1].attainment < 0.8 * lifo[1].attainment
    assert lifo[1].attainment <= abort[1].attainment
    assert fifo[1].satisfaction < lifo[1].satisfaction <= abort[1].satisfaction
    assert pace(lifo[0]) == pytest.approx(pace(fifo[0]), rel=0.05)
    # With few refusals between bursts the batch is as full; in a lull after one it is not.
    assert pace(abort[0]) >= (0.95 if cv == 1 else 0.75) * pace(fifo[0])


@pytest.mark.parametrize("cv", [1.0, 4.0])
def test_who_is_admitted_under_overload_is_in_time(cv):
    _, fifo = replayed("fifo", cv=cv, rate=10.0)
    _, abort = replayed("abort", cv=cv, rate=10.0)
    assert fifo.attainment_of_admitted < 0.4
    assert abort.attainment_of_admitted >= 0.9
    assert 0 < abort.refused < abort.requests
    assert abort.finished + abort.refused == abort.requests


def test_nobody_is_refused_while_all_can_be_in_time():
    _, summary = replayed("abort", rate=3.0)
    assert summary.refused == 0
    assert summary.attainment == 1


def test_throughput_is_flat_once_the_batch_is_full_of_distinct_adapters():
    """As in S-LoRA's figures: a step down from none to one, a slow decline, then flat."""
    paces = {count: pace(replayed(adapters=count, rate=9.0)[0]) for count in (0, 1, 50, 100, 200)}
    assert paces[0] > paces[1] > paces[50]
    assert paces[100] == pytest.approx(paces[50], rel=0.04)
    assert paces[200] == pytest.approx(paces[100], rel=0.03)
    assert paces[200] > 0.75 * paces[0]


def test_clustering_lowers_the_distinct_adapters_of_a_step():
    plain, _ = replayed(adapters=32, rate=9.0)
    clustered, summary = replayed(
        adapters=32, rate=9.0, machine=replace(MACHINE, adapter_cluster=4)
    )
    assert clustered.adapters_in_steps / clustered.steps < (
        0.8 * plain.adapters_in_steps / plain.steps
    )
    assert pace(clustered) >= pace(plain)
    assert summary.finished == summary.requests


def test_a_decode_never_waits_longer_than_a_chunk_of_prompts():
    replay, _ = replayed(machine=replace(MACHINE, max_batch_tokens=256))
    # The dearest step: 256 tokens, of which at most 32 decode, all ranks, all memory.
    dearest = MACHINE.step
    longest = (
        dearest.base
        + 256 * dearest.prompt_token
        + 32 * dearest.decode
        + 16_000 * dearest.context_token
        + 32 * 64 * dearest.rank
        + dearest.any_adapter
    )
    assert 0 < replay.longest_gap <= longest


def test_a_flood_by_one_tenant_leaves_anothers_first_token_bounded():
    """Every eighth request is the quiet tenant's; the others are twice what the machine can do."""
    workload = Workload(adapters=20, rate=16.0, duration=40, max_prompt=127, max_output=127)
    waits = {}
    for fair in (True, False):
        simulator = Simulator(MACHINE, ranks_of(20))
        numbers = iter(range(10_000))

        def tenant_of(arrival, numbers=numbers):
            return "quiet" if next(numbers) % 16 == 0 else "flood"

        replay = simulator.run(workload.trace(), tenant_of if fair else None)
        quiet = replay.outcomes[::16]
        waits[fair] = sorted(outcome.wait for outcome in quiet)
    # A place is free after at most 127 decodes of 32 places, on the average much sooner.
    assert waits[True][-1] < 3.0
    assert waits[False][-1] > 10 * waits[True][-1]


def test_a_replay_is_the_same_each_time():
    first, _ = replayed.__wrapped__("abort", cv=4.0, duration=30.0)
    again, _ = replayed.__wrapped__("abort", cv=4.0, duration=30.0)
    assert first == again


def test_step_models_survive_the_disk(tmp_path):
    MACHINE.step.save(tmp_path / "step.json", machine="a small GPU")
    assert StepModel.load(tmp_path / "step.json") == MACHINE.step
