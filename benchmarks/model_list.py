"""How long `GET /v1/models` of an ingress takes over a large catalog, without a network.

    .venv/bin/python benchmarks/model_list.py --names 100000

A SQLite catalog is filled with names, an ingress's engine is put before it without replicas, and
its HTTP app is asked: a first page, one in the middle, all of them. Beside it the whole list in one
answer, as it would be without pages.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "helpers")]

from gossamer.cluster.placement.ledger import QuotaLeases, QuotaLedger  # noqa: E402
from gossamer.cluster.published.catalog import AdapterCatalog  # noqa: E402
from gossamer.cluster.published.database import NAMES, CatalogDatabase  # noqa: E402
from gossamer.cluster.replicas.names import CatalogNames  # noqa: E402
from gossamer.cluster.replicas.remote_engine import RemoteEngine  # noqa: E402
from gossamer.cluster.replicas.wire import ReplicaFacts  # noqa: E402
from gossamer.serving.core.tenants import unlimited  # noqa: E402
from gossamer.serving.core.validation import EngineLimits  # noqa: E402
from gossamer.serving.http.app import create_app  # noqa: E402
from gossamer.serving.http.openai import routes  # noqa: E402
from gossamer.serving.http.settings import HttpSettings  # noqa: E402

from tiny import tiny_tokenizer  # noqa: E402


class NoReplicas:
    """Answers nothing, as no request comes."""

    def figures(self):
        """Return nothing."""
        return []


def fill(url, count):
    """Give `count` names to the catalog at `url`."""
    rows = (
        {
            "name": f"adapter-{number:07}", "digest": f"{number:064x}", "kind": "low-rank",
            "place": f"adapters/adapter-{number:07}/{number:064x}", "num_bytes": 13_700_000,
            "rank": 16, "published": 1.7e9, "version": number,
        }
        for number in range(count)
    )  # fmt: skip
    database = CatalogDatabase(url)
    while chunk := list(islice(rows, 10_000)):
        with database.writing() as connection:
            connection.execute(NAMES.insert(), chunk)
    database.close()


def engine_of(url, loop):
    """Make the engine that an ingress has over the catalog at `url`."""
    facts = ReplicaFacts(
        model_name="base", special_tokens="prompts", max_context=2048, num_blocks=100,
        limits=EngineLimits(max_context=2048, vocab_size=1000, block_tokens=16, block_bytes=1024),
    )  # fmt: skip
    quotas = QuotaLeases("here", unlimited, QuotaLedger().lease)
    names = CatalogNames(AdapterCatalog(url), "base")
    return RemoteEngine(facts, tiny_tokenizer(), names, NoReplicas(), quotas, loop)


async def timed(app, label, **query):
    """Ask once with an app whose lists are not remembered yet, and say how long it took."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        began = time.perf_counter()
        reply = await client.get("/v1/models", params=query)
        seconds = time.perf_counter() - began
    page = reply.json()
    print(
        f"{label:34} {1000 * seconds:8.1f} ms {len(reply.content) / 1e6:8.2f} MB "
        f"{len(page['data']):8,} models, peak {peak():,.0f} MB"
    )
    return page


def peak():
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


async def measure(url, count):
    """Print a line for each way to ask."""
    engine = engine_of(url, asyncio.get_running_loop())

    def app():
        return create_app(engine, HttpSettings())

    await timed(app(), "100, warms up", limit=100)
    await timed(app(), "100 of them", limit=100)
    await timed(app(), "100 from the middle", limit=100, after=f"adapter-{count // 2:07}")
    await timed(app(), "without parameters")
    remembering = app()
    await timed(remembering, "without parameters again, new app")
    await timed(remembering, "the same again, remembered")
    began, after, pages = time.perf_counter(), {}, 0
    transport = httpx.ASGITransport(app=app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        while True:
            page = (await client.get("/v1/models", params=after)).json()
            pages += 1
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
    print(f"all, by {pages} pages: {time.perf_counter() - began:.2f} s")
    routes.MAX_LISTED = count + 1
    await timed(app(), "all in one answer (no pages)")
    await asyncio.to_thread(engine.shutdown)


def main():
    """Fill a catalog and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=100_000)
    count = parser.parse_args().names
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder).absolute()}/catalog.db"
        fill(url, count)
        asyncio.run(measure(url, count))


if __name__ == "__main__":
    main()
