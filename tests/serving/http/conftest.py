import pytest

from gossamer.serving.interface import AdapterStatus
from tiny import tiny_tokenizer

ADAPTERS = (
    AdapterStatus(name="pirate", state="resident", kind="low-rank", rank=8, num_bytes=64,
                  digest="abc", created=7),
    AdapterStatus(name="poet", state="registered"),
    AdapterStatus(name="broken", state="refused", problem="weights hold NaN"),
)  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def make_engine(tokenizer):
    """Build fake engines that are shut down after the test."""
    from fake_engine import FakeEngine

    engines = []

    def make(**options):
        engines.append(FakeEngine(tokenizer, **{"adapters": ADAPTERS, **options}))
        return engines[-1]

    yield make
    for engine in engines:
        engine.shutdown()
