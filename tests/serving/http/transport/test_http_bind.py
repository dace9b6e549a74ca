import socket

import pytest
from live_server import live

from gossamer.errors import ServingError
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.http.transport.server import bind, run_server, url


def test_port_in_use_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServingError, match=f"port {port} on 127.0.0.1 is in use.*--port 0"):
            bind("127.0.0.1", port)


def test_port_taken_between_bind_and_listen(make_engine):
    """The engine is shut down too: nothing is left running."""
    engine = make_engine()
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with bind("127.0.0.1", port) as other:
            other.listen()
            with pytest.raises(ServingError, match="is in use"):
                run_server(engine, HttpSettings(port=port), listener)
    assert not engine.healthy()


def test_port_is_free_again_right_after_a_server(make_engine):
    import httpx

    with live(make_engine()) as (host, port):
        httpx.get(f"http://{host}:{port}/health")
    bind(host, port).close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "300.1.1.1", "a" * 300])
def test_unknown_host(host):
    with pytest.raises(ServingError, match="cannot listen on host"):
        bind(host, 0)


def test_address_of_another_machine():
    with pytest.raises(ServingError, match="cannot listen on"):
        bind("192.0.2.1", 0)


def test_url_is_one_that_a_client_can_use():
    with bind("0.0.0.0", 0) as listener:
        assert url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    with bind("localhost", 0) as listener:
        assert url(listener).startswith("http://")
