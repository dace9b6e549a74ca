"""A running engine on a tiny model, and collectors that count every event of every request."""

import itertools
import threading
import time
from contextlib import contextmanager

from gossamer.errors import GossamerError
from gossamer.serving.core.messages import Failed, Finished, Request, SamplingParams, Tokens
from gossamer.serving.engine.build import build_engine
from gossamer.serving.runner.adapter_loader import AdapterLoader
from gossamer.serving.settings import ServeSettings

BLOCK_BYTES = 12288
"""Of 16 tokens in the tiny model: 3 layers, keys and values, 2 heads of 16, float32."""


def start(model, adapters=None, *, num_blocks=200, **settings):
    """An engine of `num_blocks` blocks of 16 tokens."""
    return build_engine(
        ServeSettings(
            model=str(model),
            adapters=adapters,
            memory_gib=num_blocks * BLOCK_BYTES / 1024**3,
            **{"threads": 1, **settings},
        )
    )


@contextmanager
def standing_still(engine):
    """The engine's thread waits meanwhile; what is submitted arrives all at once."""
    inside, go_on = threading.Event(), threading.Event()

    def wait():
        inside.set()
        assert go_on.wait(30)

    engine.mailbox.post(wait)
    assert inside.wait(30)
    yield
    go_on.set()


def slow_down(engine, seconds=0.005):
    """Make each step take so much longer, so that a test can act while requests run."""
    run = engine.runner.model.run

    def slow_run(batch):
        time.sleep(seconds)
        return run(batch)

    engine.runner.model.run = slow_run


def hold_reading(monkeypatch):
    """Let no adapter be read before the event is set that this returns."""
    gate, load = threading.Event(), AdapterLoader.load

    def held(loader, entry):
        assert gate.wait(60)
        return load(loader, entry)

    monkeypatch.setattr(AdapterLoader, "load", held)
    return gate


class Collector:
    """Receives the events of one request; `raises` is what it throws each time."""

    _numbers = itertools.count()

    def __init__(self, raises=None):
        self.id = f"r{next(self._numbers)}"
        self.events = []
        self.done = threading.Event()
        self._raises = raises

    def __call__(self, event):
        self.events.append(event)
        if not isinstance(event, Tokens):
            self.done.set()
        if self._raises is not None:
            raise self._raises("the receiver's own fault")

    @property
    def finals(self):
        return [e for e in self.events if isinstance(e, Finished | Failed)]

    @property
    def tokens(self):
        return [t for e in self.events if isinstance(e, Tokens) for t in e.token_ids]

    @property
    def text(self):
        return "".join(e.text for e in self.events if isinstance(e, Tokens))

    def wait(self, seconds=60):
        """The final event."""
        assert self.done.wait(seconds), "no final event"
        return self.finals[0]


def ask(engine, prompt=(5, 6, 7), adapter=None, *, found=None, raises=None, **sampling):
    """Submit; returns the collector. Raises what the engine refuses it for.

    `found` is what a look-up gave for `adapter`, if there was one.
    """
    collector = Collector(raises)
    sampling = {"max_tokens": 8, "temperature": 0, "ignore_eos": True, **sampling}
    request = Request(
        request_id=collector.id,
        prompt_token_ids=tuple(prompt),
        adapter=adapter,
        sampling=SamplingParams(**sampling),
    )
    engine.submit(request, collector, found)
    return collector


def refusal(engine, *args, **options):
    """The error that a submission meets."""
    try:
        ask(engine, *args, **options)
    except GossamerError as error:
        return error
    raise AssertionError("accepted")


def check_idle(engine):
    """Nothing is left of past requests: blocks, users, rows, names."""
    # A last request brings the engine's own recount about, which comes before it sleeps again.
    ask(engine, max_tokens=1).wait()
    for _ in range(500):
        stats = engine.stats()
        if not (stats.num_running or stats.num_waiting or engine.mailbox.has_news):
            break
        time.sleep(0.01)
    assert stats.num_running == stats.num_waiting == stats.blocks_kv == 0
    held = stats.blocks_adapters + stats.blocks_cached
    assert stats.blocks_free + held == stats.blocks_total
    assert stats.host_bytes <= engine.scheduler.adapters.max_host_bytes
    assert all(e.users == e.requests == 0 for e in engine.scheduler.memory.resident)
    engine.audit()


def ask_tokens(engine, adapter, **options):
    one = ask(engine, adapter=adapter, **options)
    one.wait()
    return one.tokens
