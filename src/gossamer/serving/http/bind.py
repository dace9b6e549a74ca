"""Take the port before the model is loaded, so that a busy one is told at once."""

import errno
import socket

from gossamer.errors import ServingError


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; port 0 picks a free one.

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
    """The one line for a port that cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return ServingError(
            f"port {port} on {host} is in use; stop the other program or choose another port, "
            "e.g. --port 0 for a free one"
        )
    if error.errno == errno.EACCES:
        return ServingError(f"port {port} needs special rights; choose one above 1023")
    return ServingError(f"cannot listen on {host}:{port}: {_reason(error)}")


def url(listener: socket.socket) -> str:
    """Where a client on this machine finds the socket."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
