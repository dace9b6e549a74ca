"""A real server in a thread, over any engine."""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gossamer.serving.core.interface import EngineInterface
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.http.transport.server import Server, bind


@contextmanager
def live(engine: EngineInterface, extensions=(), **settings) -> Iterator[tuple[str, int]]:
    """Serve on a free port; yields host and port; drains on leaving."""
    # A server that starts looks for garbage, which takes long in all that tests have imported.
    gc.freeze()
    with started(engine, extensions, **settings) as address:
        yield address


@contextmanager
def started(engine: EngineInterface, extensions=(), **settings) -> Iterator[tuple[str, int]]:
    """The same in memory as it is."""
    http = HttpSettings(port=0, **settings)
    listener = bind(http.host, http.port)
    server = Server(engine, http, extensions=extensions)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server ended while starting"
            time.sleep(0.01)
        yield listener.getsockname()[:2]
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"
