"""Who starts: rules one by one, then thousands of random queues, then simulated days."""

import random

import pytest

from gossamer.jobs.queue.choose import PATIENCE, QueueRules, choose
from gossamer.jobs.queue.needs import GIB, MIB, MachineRoom, disk_need, never_fits, size
from gossamer.jobs.queue.order import RunningJob, TenantPolicy, WaitingJob, fair_order

CASES = 5000
NOW = 1e9


def room(memory=16 * GIB, disk=100 * GIB, **changes):
    values = {
        "memory_total": 16 * GIB,
        "memory_free": memory,
        "disk_total": 200 * GIB,
        "disk_free": disk,
        "disk_floor": 2 * GIB,
    }
    return MachineRoom(**{**values, **changes})


def job(id, tenant="a", *, created=0.0, queued=NOW, memory=GIB, **changes):
    return WaitingJob(
        id=id, tenant=tenant, created=created, queued=queued, memory=memory, **changes
    )


def start(waiting, running=(), tenants=None, at=None, **rules):
    return choose(waiting, running, tenants or {}, at or room(), QueueRules(**rules), now=NOW)


def test_jobs_start_in_order_up_to_the_limit_and_the_others_know_their_place():
    jobs = [job(str(n), created=n) for n in range(4)]
    choice = start(jobs, max_jobs=2)
    assert choice.start == ["0", "1"]
    assert choice.reasons == {"2": "2 jobs before it", "3": "3 jobs before it"}
    busy = [RunningJob(id="r", tenant="a", memory=GIB)]
    assert start(jobs[:1], busy).reasons == {"0": "1 job before it"}


def test_the_tenant_that_trained_less_for_its_share_is_next():
    jobs = [job("a1", created=1), job("a2", created=2), job("b1", "b", created=3)]
    used = {"a": TenantPolicy(seconds=10.0), "b": TenantPolicy(seconds=5.0)}
    assert [j.id for j in fair_order(jobs, [], used)] == ["b1", "a1", "a2"]
    shared = {"a": TenantPolicy(seconds=10.0, share=4), "b": TenantPolicy(seconds=5.0)}
    assert [j.id for j in fair_order(jobs, [], shared)] == ["a1", "a2", "b1"]
    busy = [RunningJob(id="r", tenant="a")]
    assert [j.id for j in fair_order(jobs, busy, {})] == ["b1", "a1", "a2"]


def test_limits_of_a_tenant_do_not_hold_up_others():
    jobs = [job("a1"), job("a2", created=1), job("b1", "b", created=2)]
    policies = {"a": TenantPolicy(max_jobs=1)}
    choice = start(jobs, tenants=policies, max_jobs=9)
    assert choice.start == ["a1", "b1"]
    assert choice.reasons == {"a2": "tenant 'a' trains 1 of at most 1 jobs"}
    spent = {"a": TenantPolicy(seconds=3600.0, seconds_per_day=3600.0)}
    choice = start(jobs, tenants=spent, max_jobs=9)
    assert choice.start == ["b1"]
    assert "has used 60 of 60 minutes of training in the last 24 hours" in choice.reasons["a1"]


def test_what_running_jobs_will_still_take_is_not_free():
    free = room(memory=6 * GIB)
    rules = {"memory_margin": 1.0, "max_jobs": 9, "at": free}
    assert start([job("0", memory=4 * GIB)], **rules).start == ["0"]
    young = [RunningJob(id="r", tenant="a", memory=3 * GIB, used=GIB)]
    choice = start([job("0", memory=4 * GIB)], young, **rules)
    assert choice.reasons == {"0": "needs 1.6 GiB more memory"}
    grown = [RunningJob(id="r", tenant="a", memory=3 * GIB, used=4 * GIB)]
    assert start([job("0", memory=4 * GIB)], grown, **rules).start == ["0"]


def test_a_job_of_unknown_memory_trains_alone():
    busy = [RunningJob(id="r", tenant="a", memory=GIB)]
    assert "trains alone" in start([job("0", memory=None)], busy, max_jobs=9).reasons["0"]
    assert start([job("0", memory=None)], max_jobs=9).start == ["0"]
    unknown = [RunningJob(id="r", tenant="a")]
    assert "trains alone" in start([job("0")], unknown, max_jobs=9).reasons["0"]


def test_a_gpu_takes_one_job():
    busy = [RunningJob(id="r", tenant="a", memory=GIB, device="cuda")]
    choice = start([job("0", device="cuda"), job("1")], busy, max_jobs=9)
    assert choice.start == ["1"]
    assert choice.reasons == {"0": "cuda trains another job"}


def test_a_full_disk_starts_nothing():
    low = room(disk=10 * GIB)
    choice = start([job("0", disk=3 * GIB)], at=low)
    assert choice.reasons == {"0": "needs 3 GiB more free disk"}
    assert not low.is_disk_low
    assert room(disk=9 * GIB).is_disk_low


def test_small_jobs_pass_a_large_one_until_its_patience_ends():
    tight = room(memory=4 * GIB)
    large = job("large", memory=8 * GIB)
    small = job("small", created=1)
    choice = start([large, small], at=tight, max_jobs=9)
    assert choice.start == ["small"]
    old = job("large", memory=8 * GIB, queued=NOW - PATIENCE - 1)
    choice = start([old, small], at=tight, max_jobs=9)
    assert choice.start == []
    assert choice.reasons["small"] == "1 job before it"


def test_sizes_are_rounded_up_and_needs_add_up():
    assert size(1) == "0.1 MiB"
    assert size(1.01 * GIB) == "1.1 GiB"
    assert size(512 * MIB) == "512 MiB"
    need = disk_need(rows=1, trained_weights=1000, adapter=10, checkpoints=2)
    assert need == 1 + 3 * 12 * 1000 + 10 + 50 * MIB
    assert never_fits(12 * GIB, room(), 1.15) is None
    assert "needs about 16.1 GiB of memory and at most 14.4 GiB" in never_fits(
        14 * GIB, room(), 1.15
    )
    assert "at most 2 GiB" in never_fits(2 * GIB, room(job_memory=2 * GIB), 1.15)
    assert never_fits(2 * GIB, room(job_memory=20 * GIB), 1.15) is None


def random_case(generator):
    tenants = {
        name: TenantPolicy(
            share=generator.choice([0.5, 1.0, 3.0]),
            max_jobs=generator.choice([None, 1, 2]),
            seconds_per_day=generator.choice([None, 100.0]),
            seconds=generator.choice([0.0, 50.0, 100.0, generator.random() * 200]),
        )
        for name in "abc"
    }

    def memory():
        return generator.choice([None, MIB, GIB, generator.randrange(9 * GIB)])

    def device():
        return generator.choice(["cpu", "cpu", "cuda"])

    waiting = [
        job(
            f"w{n}",
            generator.choice("abcd"),
            created=generator.choice([1.0, generator.random() * 100]),
            queued=NOW - generator.choice([0.0, 2 * PATIENCE]),
            memory=memory(),
            disk=generator.choice([0, generator.randrange(40 * GIB)]),
            device=device(),
        )
        for n in range(generator.randrange(9))
    ]
    running = [
        RunningJob(
            id=f"r{n}",
            tenant=generator.choice("abcd"),
            memory=memory(),
            used=generator.randrange(4 * GIB),
            device=device(),
        )
        for n in range(generator.choice([0, 0, 1, 2]))
    ]
    machine = room(generator.randrange(17 * GIB), generator.randrange(120 * GIB))
    rules = QueueRules(max_jobs=generator.randrange(1, 5), memory_margin=1.15)
    return waiting, running, tenants, machine, rules


@pytest.mark.parametrize("seed", range(4))
def test_whatever_waits_no_limit_is_passed_and_each_job_has_a_reason(seed):
    generator = random.Random(seed)
    for _ in range(CASES // 4):
        waiting, running, tenants, machine, rules = random_case(generator)
        choice = choose(waiting, running, tenants, machine, rules, now=NOW)
        check_limits(choice, waiting, running, tenants, machine, rules)
        generator.shuffle(waiting)
        again = choose(waiting, running, tenants, machine, rules, now=NOW)
        assert again == choice, "the order in which the table tells them does not matter"


def check_limits(choice, waiting, running, tenants, machine, rules):
    jobs = {j.id: j for j in waiting}
    assert set(choice.start) | set(choice.reasons) == set(jobs)
    assert not set(choice.start) & set(choice.reasons)
    assert all(choice.reasons.values())
    begun = [jobs[id] for id in choice.start]
    if not begun:
        return
    everyone = [*running, *begun]
    assert len(everyone) <= rules.max_jobs
    if any(j.device == "cuda" for j in begun):
        assert len([j for j in everyone if j.device == "cuda"]) == 1
    assert sum(j.disk for j in begun) <= machine.disk_free - machine.disk_reserve
    if any(j.memory is None for j in everyone):
        assert len(everyone) == 1
    promised = sum(max(0, (j.memory or 0) * 1.15 - j.used) for j in running)
    promised += sum((j.memory or 0) * 1.15 for j in begun)
    if begun[0].memory is not None:
        assert promised <= machine.memory_free - machine.memory_reserve
    for j in begun:
        policy = tenants.get(j.tenant, TenantPolicy())
        of_tenant = [other for other in everyone if other.tenant == j.tenant]
        assert policy.max_jobs is None or len(of_tenant) <= policy.max_jobs
        assert policy.seconds_per_day is None or policy.seconds < policy.seconds_per_day


def test_when_nothing_runs_and_all_fits_something_starts():
    generator = random.Random(1)
    for _ in range(CASES):
        waiting, _, _, _, rules = random_case(generator)
        small = [job(j.id, j.tenant, created=j.created, memory=GIB) for j in waiting]
        choice = choose(small, [], {}, room(), rules, now=NOW)
        assert len(choice.start) == min(rules.max_jobs, len(small))


def simulate(jobs, policies, *, days=1.0, max_jobs=1):
    """Let jobs of (tenant, length, memory) come at once and run; the starts as (time, tenant)."""
    now, starts, running = NOW, [], {}
    waiting = [
        job(f"{n:04}", tenant, created=NOW + n * 1e-3, memory=memory)
        for n, (tenant, _, memory) in enumerate(jobs)
    ]
    lengths = {f"{n:04}": length for n, (_, length, _) in enumerate(jobs)}
    used = dict.fromkeys(policies, 0.0)
    while waiting or running:
        tenants = {
            name: TenantPolicy(share=share, seconds=used[name]) for name, share in policies.items()
        }
        busy = [
            RunningJob(id=id, tenant=j.tenant, memory=j.memory, used=j.memory)
            for id, (j, _) in running.items()
        ]
        taken = sum(j.memory for j, _ in running.values())
        choice = choose(
            waiting, busy, tenants, room(16 * GIB - taken), QueueRules(max_jobs=max_jobs), now=now
        )
        for id in choice.start:
            chosen = next(j for j in waiting if j.id == id)
            running[id] = (chosen, now + lengths[id])
            starts.append((now, chosen.tenant, id))
        waiting = [j for j in waiting if j.id not in choice.start]
        assert running, "nothing runs and nothing starts"
        id = min(running, key=lambda name: running[name][1])
        finished, now = running.pop(id)
        used[finished.tenant] += lengths[id]
    return starts


def test_one_job_of_another_tenant_is_second_behind_twenty():
    jobs = [("a", 100.0, GIB)] * 20 + [("b", 100.0, GIB)]
    assert [tenant for _, tenant, _ in simulate(jobs, {"a": 1.0, "b": 1.0})][:2] == ["a", "b"]


def test_time_is_divided_by_shares_while_both_wait():
    generator = random.Random(3)
    jobs = [(t, generator.uniform(50, 150), GIB) for _ in range(200) for t in "ab"]
    starts = simulate(jobs, {"a": 3.0, "b": 1.0})
    lengths = {f"{n:04}": length for n, (_, length, _) in enumerate(jobs)}
    seconds = {"a": 0.0, "b": 0.0}
    for _, tenant, id in starts[:200]:
        seconds[tenant] += lengths[id]
        assert abs(seconds["a"] / 3 - seconds["b"]) <= 150 + 1e-6


def test_a_large_job_among_endless_small_ones_gets_its_turn():
    jobs = [("a", 100.0, GIB)] * 5 + [("a", 100.0, 11 * GIB)] + [("a", 100.0, GIB)] * 200
    starts = simulate(jobs, {"a": 1.0}, max_jobs=8)
    begun = next(when for when, _, id in starts if id == "0005")
    assert begun - NOW <= PATIENCE + 200
