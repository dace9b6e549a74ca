"""A few threads that tenants use in turn; whatever grows with a request's size is done there."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

WORKERS = 3
PER_TENANT = 2
"""The threads that one tenant has at a time: the third is always for another tenant."""

_Job = tuple["asyncio.Future[Any]", Callable[[], Any]]


class FairThreadPool:
    """Runs one piece of work for each waiting tenant in turn.

    So how long one waits depends on how many others there are and how long a piece takes, and not
    on how much somebody else has sent. Used on one event loop only.
    """

    def __init__(self, name: str, workers: int = WORKERS, per_tenant: int = PER_TENANT) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._free = workers
        self._per_tenant = per_tenant
        self._running: Counter[str] = Counter()
        # In the order in which it is the tenants' turn.
        self._waiting: dict[str, deque[_Job]] = {}

    async def run(self, tenant: str, work: Callable[[], T]) -> T:
        """Run `work` and return its result. If cancelled, work that has begun goes on unheard.

        Raises what `work` raises; a `StopIteration`, which no future takes, as a `RuntimeError`.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append((future, work))
        self._begin()
        return await future

    def close(self) -> None:
        """End the threads, without waiting for work whose caller has gone."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        while self._free and (tenant := self._whose_turn()) is not None:
            jobs = self._waiting.pop(tenant)
            future, work = jobs.popleft()
            if jobs:
                self._waiting[tenant] = jobs
            if future.cancelled():
                continue
            self._free -= 1
            self._running[tenant] += 1
            done = asyncio.get_running_loop().run_in_executor(self._pool, _carried, work)
            done.add_done_callback(partial(self._end, tenant, future))

    def _whose_turn(self) -> str | None:
        turns = (each for each in self._waiting if self._running[each] < self._per_tenant)
        return next(turns, None)

    def _end(self, tenant: str, future: "asyncio.Future[Any]", done: "asyncio.Future[Any]") -> None:
        self._free += 1
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        error = None if done.cancelled() else done.exception()
        if future.done():
            pass  # the caller has left
        elif done.cancelled():
            future.cancel()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())
        self._begin()


def _carried(work: Callable[[], T]) -> T:
    """Do `work`, and let only what a future takes come out of it: else its thread is never free."""
    try:
        return work()
    except StopIteration as error:
        raise RuntimeError("a piece of work has ended with StopIteration") from error
