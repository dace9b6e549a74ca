"""How many connections there may be: the policy alone."""

import logging
import resource

import pytest

from gossamer.serving.http.transport.connections import (
    FILES_KEPT,
    RESERVE,
    Connections,
    limit_of_connections,
)


class Client:
    def __init__(self):
        self.is_open = True

    def give_way(self):
        self.is_open = False


def fill(connections, count):
    clients = [Client() for _ in range(count)]
    return clients, [connections.enter(client) for client in clients]


def test_who_keeps_the_server_waiting_longest_gives_way():
    connections = Connections(3, reserve=1)
    clients, seats = fill(connections, 3)
    for client in reversed(clients):
        connections.wait_for(client)
    connections.wait_for(clients[2])  # has waited since before the others
    connections.work_for(clients[1])
    assert seats == ["regular"] * 3
    assert connections.enter(Client()) == "regular"
    assert [client.is_open for client in clients] == [True, True, False]
    assert connections.enter(Client()) == "regular"
    assert [client.is_open for client in clients] == [False, True, False]
    assert len(connections) == 3
    assert connections.cuts["room"] == 2


def test_with_all_at_work_there_is_the_reserve_and_then_no_room():
    connections = Connections(2, reserve=2)
    clients, seats = fill(connections, 5)
    assert seats == ["regular", "regular", "reserve", "reserve", "full"]
    assert all(client.is_open for client in clients)
    assert connections.cuts["full"] == 1
    connections.wait_for(clients[4])  # was not taken in, so nothing is known of it
    connections.leave(clients[0])
    connections.leave(clients[1])
    connections.leave(clients[2])
    assert connections.enter(Client()) == "regular"
    assert len(connections) == 2


@pytest.mark.parametrize(
    ("soft", "hard", "limit"), [(256, 256, 176), (256, 512, 432), (90, 90, 10)]
)
def test_open_files_bound_the_connections(monkeypatch, caplog, soft, hard, limit):
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.append(pair))
    with caplog.at_level(logging.WARNING):
        assert limit_of_connections(1000) == limit
    assert limits[-1] == (hard, hard)
    assert f"at most {limit} connections instead of 1000" in caplog.text


def test_the_soft_limit_of_open_files_is_raised_as_far_as_needed(monkeypatch):
    limits = [(256, 1_000_000)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.append(pair))
    assert limit_of_connections(1000) == 1000
    assert limits[-1] == (1000 + RESERVE + FILES_KEPT, 1_000_000)
    assert limit_of_connections(10) == 10
    assert len(limits) == 2
