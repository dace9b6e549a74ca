"""A server process over a fake engine: `python serve_fake.py DELAY DRAIN_SECONDS [WHAT HANGS]`."""

import asyncio
import signal
import sys
import threading
import time

from fake_engine import FakeEngine

from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.http.transport import server
from gossamer.serving.http.transport.server import bind, url
from gossamer.serving.http.transport.signals import SignalWatch

PIRATE = AdapterStatus(name="pirate", state="registered")


def letters(text: str, **options) -> dict[str, list[int]]:
    """Stands for a tokenizer; a real one takes seconds to import."""
    return {"input_ids": list(text.encode())}


letters.all_special_tokens = letters.all_special_ids = ()


def hang(*args, **named):
    """As a disk that does not answer."""
    print("hangs", flush=True)
    time.sleep(1000)


def main() -> None:
    delay, drain_seconds = map(float, sys.argv[1:3])
    hanging = sys.argv[3] if len(sys.argv) > 3 else None
    settings = HttpSettings(port=0, drain_seconds=drain_seconds)
    # A shell has Ctrl-C ignored by what it runs in the background, the tests perhaps among it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with SignalWatch(until_exit=True) as watch:
        if hanging == "start":
            hang()
        engine = FakeEngine(
            letters, adapters=(PIRATE,), script=lambda request: ["x"] * 10, delay=delay
        )
        if hanging is not None:
            server.GRACE_SECONDS = 0.4
        if hanging == "engine":
            engine.shutdown = hang
        if hanging == "route":
            engine.adapter = hang
        with bind(settings.host, settings.port) as listener:

            def ready():
                print(url(listener), flush=True)
                if hanging == "loop":
                    asyncio.get_running_loop().call_later(0.05, hang)

            server.run_server(engine, settings, listener, ready, watch)
    print(f"ended {dict(engine.reasons)} {max(engine.finals.values(), default=0)}", flush=True)
    if hanging == "exit":
        # A thread that is no daemon: the interpreter waits for it.
        threading.Thread(target=hang).start()


if __name__ == "__main__":
    main()
