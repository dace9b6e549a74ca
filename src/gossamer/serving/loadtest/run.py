"""Plays a trace against a server: each request at its time, whether earlier ones end or not."""

import asyncio
import time
from collections.abc import Callable, Sequence

import httpx

from gossamer.errors import UsageError
from gossamer.serving.client.address import api_root, key_headers
from gossamer.serving.loadtest.client import ClientSettings, ask
from gossamer.serving.loadtest.outcomes import Sample
from gossamer.serving.loadtest.workload import Workload


def play(
    url: str,
    models: Sequence[str],
    workload: Workload,
    settings: ClientSettings,
    *,
    api_key: str | None = None,
    on_sample: Callable[[Sample], None] = lambda sample: None,
) -> list[Sample]:
    """Play the trace and return all samples in the order due. Model i is asked for as adapter i.

    Raises `UsageError` if the workload asks for more adapters than there are models.
    """
    if workload.adapters > len(models):
        raise UsageError(
            f"the workload asks for {workload.adapters} adapters and the server offers "
            f"{len(models)}; give --adapters {len(models)} or fewer"
        )
    return asyncio.run(_play(url, models, workload, settings, api_key, on_sample))


async def _play(
    url: str,
    models: Sequence[str],
    workload: Workload,
    settings: ClientSettings,
    api_key: str | None,
    on_sample: Callable[[Sample], None],
) -> list[Sample]:
    async with httpx.AsyncClient(
        base_url=api_root(url),
        headers=key_headers(api_key),
        timeout=httpx.Timeout(settings.timeout, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
    ) as client:
        start = time.perf_counter()
        tasks = []
        for number, arrival in enumerate(workload.trace()):
            await asyncio.sleep(max(0.0, arrival.time - (time.perf_counter() - start)))
            model = models[arrival.adapter]
            task = asyncio.create_task(ask(client, model, arrival, number, settings, start))
            task.add_done_callback(lambda done: on_sample(done.result()))
            tasks.append(task)
        return list(await asyncio.gather(*tasks))
