import asyncio

import httpx
import pytest
from fake_engine import FakeEngine
from studio_case import SetJobs

from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.http.app import create_app
from gossamer.serving.http.settings import HttpSettings
from gossamer.studio.extension import page_extension

from tiny import tiny_tokenizer

PIRATE = AdapterStatus(name="pirate", state="resident", kind="low-rank", rank=8, num_bytes=64)
POET = AdapterStatus(name="poet", state="registered")


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def news():
    return SetJobs()


@pytest.fixture
def make_engine(tokenizer):
    engines = []

    def make(**options):
        engines.append(FakeEngine(tokenizer, **{"adapters": (PIRATE, POET), **options}))
        return engines[-1]

    yield make
    for engine in engines:
        engine.shutdown()


@pytest.fixture
def call(news):
    """One call to an app without a network: `call(engine, "POST", path, json=...)`."""

    def call(engine, method, path, *, settings=None, **options):
        async def run():
            app = create_app(engine, settings or HttpSettings(), (page_extension(news),))
            transport = httpx.ASGITransport(app=app)
            base = "http://localhost"
            async with httpx.AsyncClient(transport=transport, base_url=base) as client:
                return await client.request(method, path, **options)

        return asyncio.run(run())

    return call
