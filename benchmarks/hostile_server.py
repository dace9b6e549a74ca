"""The server of `hostile.py` in a process of its own, which counts what clients cannot see."""

import contextlib
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gossamer.serving.core.messages import Event, Request, Tokens
from gossamer.serving.engine.build import build_engine
from gossamer.serving.engine.engine import Engine
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.http.transport.server import Server, bind, url
from gossamer.serving.settings import ServeSettings

IDLE_SECONDS = 60


def serve(settings: dict[str, Any], orders: Connection) -> None:
    """Serve on a free port, tell the address, then obey orders until the last: `stop`."""
    engine = build_engine(ServeSettings(**settings))
    ends = Ends(engine)
    listener = bind("127.0.0.1", 0)
    server = Server(engine, HttpSettings(port=0, drain_seconds=5))
    # A daemon: when the process that gives the orders has died, nothing must stay behind.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    orders.send((url(listener), engine.model_name))
    while orders.recv() == "count":
        orders.send(_count(engine, ends))
    server.should_exit = True
    thread.join()
    orders.send("stopped")


class Ends:
    """Final events of each request: there must be exactly one."""

    def __init__(self, engine: Engine) -> None:
        self.open: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._submit = engine.submit
        engine.submit = self._count  # type: ignore[method-assign]

    def _count(self, request: Request, on_event: Callable[[Event], None], *more: Any) -> None:
        name = request.request_id

        def count(event: Event) -> None:
            if not isinstance(event, Tokens):
                self.counts["ended" if name in self.open else "ended twice"] += 1
                self.open.discard(name)
            on_event(event)

        self.open.add(name)
        try:
            self._submit(request, count, *more)
        except BaseException:
            self.open.discard(name)
            raise
        self.counts["accepted"] += 1


def _count(engine: Engine, ends: Ends) -> dict[str, Any]:
    """Memory now and at most; what is lost, if anything, once all requests have ended."""
    deadline = time.monotonic() + IDLE_SECONDS
    while ends.open and time.monotonic() < deadline:
        time.sleep(0.01)
    counting = ThreadPoolExecutor(1)
    lost = "the engine does not answer"
    with contextlib.suppress(TimeoutError):
        lost = counting.submit(_lost, engine).result(timeout=IDLE_SECONDS)
    counting.shutdown(wait=False)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    stats = engine.stats()
    return {
        "lost": lost,
        "without_an_end": len(ends.open),
        "events": dict(ends.counts),
        "rss_mib": round(pages * resource.getpagesize() / 2**20, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "adapter_loads": stats.adapter_loads,
        "adapter_evictions": stats.adapter_evictions,
        "adapters_by_state": stats.adapters_by_state,
        "threads": threading.active_count(),
    }


def _lost(engine: Engine) -> str:
    try:
        engine.audit()
        held = engine.stats().blocks_kv
    except Exception as error:
        return f"the recount failed: {error!r}"
    return f"{held} blocks of keys and values" if held else ""
