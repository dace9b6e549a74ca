import asyncio

import httpx
import pytest
from fake_engine import FakeEngine

from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.http.app import create_app
from gossamer.serving.http.settings import HttpSettings

from tiny import tiny_tokenizer

PIRATE = AdapterStatus(
    name="pirate",
    state="resident",
    kind="low-rank",
    rank=8,
    num_bytes=64,
    digest="abc",
    created=7,
)
POET = AdapterStatus(name="poet", state="registered")
BROKEN = AdapterStatus(name="broken", state="refused", problem="weights hold NaN")


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def make_engine(tokenizer):
    """Build fake engines that are shut down after the test."""
    engines = []

    def make(**options):
        engines.append(FakeEngine(tokenizer, **{"adapters": (PIRATE, POET, BROKEN), **options}))
        return engines[-1]

    yield make
    for engine in engines:
        engine.shutdown()


@pytest.fixture
def ask():
    """One call to an app without a network: `ask(engine, "GET", "/health", json=...)`."""

    def ask(engine, method, path, *, settings=None, **options):
        async def run():
            app = create_app(engine, settings or HttpSettings())
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                return await client.request(method, path, **options)

        return asyncio.run(run())

    return ask
