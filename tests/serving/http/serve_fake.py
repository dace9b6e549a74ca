"""A server process over a fake engine: `python serve_fake.py DELAY DRAIN_SECONDS`."""

import sys

from fake_engine import FakeEngine

from gossamer.serving.http.bind import bind, url
from gossamer.serving.http.server import run_server
from gossamer.serving.http.settings import HttpSettings


def letters(text: str, **options) -> dict[str, list[int]]:
    """Stands for a tokenizer; a real one takes seconds to import."""
    return {"input_ids": list(text.encode())}


def main() -> None:
    delay, drain_seconds = map(float, sys.argv[1:])
    settings = HttpSettings(port=0, drain_seconds=drain_seconds)
    engine = FakeEngine(letters, script=lambda request: ["x"] * 10, delay=delay)
    with bind(settings.host, settings.port) as listener:
        run_server(engine, settings, listener, lambda: print(url(listener), flush=True))
    print(f"ended {dict(engine.reasons)} {max(engine.finals.values(), default=0)}", flush=True)


if __name__ == "__main__":
    main()
