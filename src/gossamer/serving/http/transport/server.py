"""Take a port, run the app on it until a signal comes, then drain."""

import asyncio
import errno
import gc
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import FrameType

import uvicorn

from gossamer.errors import ServingError
from gossamer.serving.core.interface import EngineInterface
from gossamer.serving.http.app import create_app
from gossamer.serving.http.extension import Extension
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.http.transport.connections import Connections, limit_of_connections
from gossamer.serving.http.transport.protocol import guarded
from gossamer.serving.http.transport.signals import SignalWatch, end_now


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket that does not listen yet; port 0 picks a free one.

    Raises `ServingError` for a port in use, a port or address that may not be used, and a host name
    that is not known.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ServingError(f"cannot listen on host '{host}': {_reason(error)}") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Without it, a restart would fail for a minute after the last connections.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise bind_error(host, port, error) from None
    return listener


def bind_error(host: str, port: int, error: OSError) -> ServingError:
    """Say in one line why a port cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return ServingError(
            f"port {port} on {host} is in use; stop the other program or choose another port, "
            "e.g. --port 0 for a free one"
        )
    if error.errno == errno.EACCES:
        return ServingError(f"port {port} needs special rights; choose one above 1023")
    return ServingError(f"cannot listen on {host}:{port}: {_reason(error)}")


def url(listener: socket.socket) -> str:
    """The URL under which a client on this machine finds the socket."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


GRACE_SECONDS = 5
"""The seconds after the engine's time to drain in which answers may still reach their clients."""

TURN_SECONDS = 0.0001
"""The time that a thread may keep Python's lock while others wait. A step of the engine gives it up
hundreds of times, at each operation on tensors, and gets it back a turn later while another
thread computes in Python: with Python's own 5 ms a step would take seconds beside a busy thread."""


class Server(uvicorn.Server):
    """Drains at one signal; `SignalWatch` ends the process at a second, or if something hangs."""

    def __init__(
        self,
        engine: EngineInterface,
        settings: HttpSettings,
        on_ready: Callable[[], None] = lambda: None,
        extensions: Sequence[Extension] = (),
    ) -> None:
        app = create_app(engine, settings, extensions)
        connections = Connections(limit_of_connections(settings.max_connections))
        app.state.context.metrics.watch(connections)
        uploads = tuple(path for each in extensions for path in each.upload_paths)
        super().__init__(
            uvicorn.Config(
                app,
                http=guarded(settings, connections, uploads),
                log_config=None,
                # A line for each client that does not speak HTTP would let it fill the disk.
                log_level="error",
                access_log=False,
                server_header=False,
                ws="none",
                # Another loop would take the place where `SignalWatch` learns of signals.
                loop="asyncio",
                timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]
                h11_max_incomplete_event_size=settings.max_header_kib * 1024,
                timeout_graceful_shutdown=int(settings.drain_seconds) + GRACE_SECONDS,
            )
        )
        self._engine = engine
        self._settings = settings
        self._on_ready = on_ready
        self.is_draining = False
        """Whether the engine has been told to shut down."""
        self.signal: int | None = None
        """The signal that ended the server."""
        self.engine_hangs = False
        """Whether the engine has not shut down in time."""
        self._usual_turn = sys.getswitchinterval()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Leave the main loop at the first signal; uvicorn's own would raise it again later."""
        self.signal = self.signal or sig
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so. Raises `ServingError` if another program has taken the port."""
        # What start-up has made stays as long as the server. Looking through all of it for garbage
        # holds every thread up for a quarter of a second, again and again.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(TURN_SECONDS)
        try:
            await super().startup(sockets)
        except OSError as error:
            raise bind_error(self._settings.host, self._settings.port, error) from None
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting; let the engine end its requests in time; close what remains."""
        self.is_draining = True
        gc.unfreeze()
        sys.setswitchinterval(self._usual_turn)
        drained = asyncio.Event()
        loop = asyncio.get_running_loop()

        def drain() -> None:
            self._engine.shutdown(drain_seconds=self._settings.drain_seconds)
            loop.call_soon_threadsafe(drained.set)

        # A daemon: an engine that hangs must not keep the process alive.
        threading.Thread(target=drain, name="gossamer-drain", daemon=True).start()
        await super().shutdown(sockets)
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await drained.wait()
        except TimeoutError:
            self.engine_hangs = True


def run_server(
    engine: EngineInterface,
    settings: HttpSettings,
    listener: socket.socket,
    on_ready: Callable[[], None] = lambda: None,
    watch: SignalWatch | None = None,
    extensions: Sequence[Extension] = (),
) -> None:
    """Serve on a bound socket until SIGTERM or SIGINT; the engine is shut down in any case.

    The process ends some seconds after the time to drain even if something hangs: then with 128
    and the signal's number as its status, as after a second signal. `watch` watches already.

    Raises `ServingError` if another program has begun to listen on the same port meanwhile.
    """
    with nullcontext(watch) if watch is not None else SignalWatch() as watch:
        server = Server(engine, settings, on_ready, extensions)
        watch.serve(settings.drain_seconds + 2.4 * GRACE_SECONDS)
        try:
            server.run(sockets=[listener])
        finally:
            if not server.is_draining:
                engine.shutdown()
            listener.close()
        if server.engine_hangs:
            end_now(128 + (server.signal or 0), "the engine did not stop in time")
