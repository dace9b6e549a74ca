"""HTTP by hand, for clients that do not behave."""

import json
import socket
from contextlib import contextmanager

PATIENCE = 60
"""Seconds after which a test fails; a right server answers in a fraction of one."""


@contextmanager
def connected(address, *, receive_buffer=None):
    with socket.socket() as client:
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(PATIENCE)
        client.connect(address)
        yield client


def send(client, method, path, body=b"", **headers):
    head = {"Host": "localhost", "Content-Length": len(body), **headers}
    if body:
        head.setdefault("Content-Type", "application/json")
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in head.items())
    client.sendall(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)


def reply(client):
    """Status, headers and decoded body of the next answer; None for a closed connection."""
    file = client.makefile("rb")
    line = file.readline()
    if not line:
        return None
    headers = {}
    while (text := file.readline()) not in (b"\r\n", b""):
        name, _, value = text.decode().partition(":")
        headers[name.lower()] = value.strip()
    body = file.read(int(headers.get("content-length", 0)))
    return int(line.split()[1]), headers, json.loads(body) if body else None


def is_closed(client):
    """Wait until the server has closed the connection."""
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def call(address, method, path, body=None, **headers):
    """One call on a connection of its own."""
    with connected(address) as client:
        content = json.dumps(body).encode() if body is not None else b""
        send(client, method, path, content, Connection="close", **headers)
        return reply(client)
