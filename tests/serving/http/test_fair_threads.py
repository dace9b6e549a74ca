"""Threads that tenants use in turn."""

import asyncio
import threading
from functools import partial

import pytest

from gossamer.serving.http.fair_threads import FairThreadPool


def run(scenario, **options):
    async def main():
        threads = FairThreadPool("test", **options)
        try:
            return await scenario(threads)
        finally:
            threads.close()

    return asyncio.run(main())


def test_tenants_take_turns_however_much_one_has_sent():
    order = []

    async def scenario(threads):
        gate = threading.Event()
        busy = asyncio.ensure_future(threads.run("a", gate.wait))
        names = [*("a1", "a2", "a3", "a4"), *("b1", "b2"), "c1"]
        work = [threads.run(name[0], lambda name=name: order.append(name)) for name in names]
        calls = [asyncio.ensure_future(each) for each in work]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(busy, *calls)

    run(scenario, workers=1, per_tenant=1)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_one_tenant_never_has_all_threads():
    async def scenario(threads):
        gate = threading.Event()
        flood = [asyncio.ensure_future(threads.run("a", gate.wait)) for _ in range(20)]
        await asyncio.sleep(0)
        # Would never end if the flood were in all threads, or before it in the line.
        assert await asyncio.wait_for(threads.run("b", lambda: "answer"), 60) == "answer"
        assert not any(call.done() for call in flood)
        gate.set()
        await asyncio.gather(*flood)

    run(scenario, workers=3, per_tenant=2)


def test_who_has_left_is_passed_over_and_errors_reach_who_asked():
    done = []

    async def scenario(threads):
        gate = threading.Event()
        first = asyncio.ensure_future(threads.run("a", gate.wait))
        left = asyncio.ensure_future(threads.run("a", lambda: done.append("left")))
        wrong = asyncio.ensure_future(threads.run("a", lambda: 1 / 0))
        last = asyncio.ensure_future(threads.run("b", lambda: done.append("last")))
        await asyncio.sleep(0)
        left.cancel()
        first.cancel()  # has begun: its thread is not free before it has ended
        await asyncio.sleep(0)
        assert not last.done()
        gate.set()
        with pytest.raises(ZeroDivisionError):
            await wrong
        await last

    run(scenario, workers=1, per_tenant=1)
    assert done == ["last"]


@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration, GeneratorExit, MemoryError])
def test_a_thread_is_free_again_whatever_its_work_has_raised(error):
    async def scenario(threads):
        for _ in range(3):
            with pytest.raises(RuntimeError if error is StopIteration else error):
                await asyncio.wait_for(threads.run("a", partial(fail, error)), 60)
        assert await asyncio.wait_for(threads.run("a", lambda: "answer"), 60) == "answer"

    def fail(error):
        raise error

    run(scenario, workers=1, per_tenant=1)
