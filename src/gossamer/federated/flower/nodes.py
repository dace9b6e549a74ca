"""Which of Flower's nodes is which client, at the start of a run and after one was replaced."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from gossamer.errors import TrainingError
from gossamer.federated.flower.messages import CONFIG, METRICS

NO_NUMBER = -1
WAIT_SECONDS = 600.0
"""So long the server waits for as many nodes as there are clients."""
_NEWS_SECONDS = 120.0
"""So long a round waits for the numbers of nodes that have come since: a process each."""
_POLL_SECONDS = 1.0


def find_clients(grid: Grid, clients: int) -> dict[int, int]:
    """Wait for the nodes and ask each for its number; Flower's id of each client by its number.

    Nodes that have none get the numbers that are left. Raises `TrainingError`.
    """
    until = time.monotonic() + WAIT_SECONDS
    while len(nodes := sorted(grid.get_node_ids())) < clients:
        if time.monotonic() > until:
            raise TrainingError(
                f"{len(nodes)} of {clients} clients have come in {WAIT_SECONDS:.0f} seconds; start "
                "more supernodes, or take fewer clients"
            )
        time.sleep(_POLL_SECONDS)
    found: dict[int, int] = {}
    unnumbered = []
    for node, number in _ask(grid, nodes, WAIT_SECONDS).items():
        if number == NO_NUMBER:
            unnumbered.append(node)
        elif number in found:
            raise TrainingError(f"two nodes have partition-id {number}; give each its own")
        else:
            found[number] = node
    left = (number for number in range(len(nodes)) if number not in found)
    found |= dict(zip(left, sorted(unnumbered), strict=False))
    chosen = {number: node for number, node in sorted(found.items()) if number < clients}
    if sorted(chosen) != list(range(clients)):
        raise TrainingError(
            f"the nodes have the numbers {sorted(found)}; {clients} clients have partition-id 0 to "
            f"{clients - 1}"
        )
    return chosen


class Nodes:
    """The nodes of a run: a supernode that was restarted has a new id, and says who it is."""

    def __init__(self, nodes: Mapping[int, int]) -> None:
        """`nodes` has Flower's id of each client by its number."""
        self.of_client = dict(nodes)
        self._known = set(nodes.values())

    def refresh(self, grid: Grid) -> list[int]:
        """Let nodes that have come since take the places of the clients whose numbers they say;
        returns these clients. One that says no number stays out."""
        fresh = sorted(set(grid.get_node_ids()) - self._known)
        if not fresh:
            return []
        numbers = _ask(grid, fresh, _NEWS_SECONDS)
        self._known |= set(numbers)
        came = {number: node for node, number in numbers.items() if number in self.of_client}
        self.of_client |= came
        return sorted(came)


def _ask(grid: Grid, nodes: Iterable[int], seconds: float) -> dict[int, int]:
    """Ask nodes for their numbers; what those that have answered say."""
    asked = [
        Message(RecordDict({CONFIG: ConfigRecord({})}), node, MessageType.QUERY) for node in nodes
    ]
    numbers = {}
    for reply in grid.send_and_receive(asked, timeout=seconds):
        told: Any = {} if reply.has_error() else reply.content.get(METRICS, {})
        if isinstance(told.get("client"), int):
            numbers[reply.metadata.src_node_id] = told["client"]
    return numbers
