"""The server of a federated run: what it sends, what it makes of replies, what it keeps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gossamer.errors import TrainingError
from gossamer.federated.aggregation import find_aggregation
from gossamer.federated.aggregation.base import distance_to_mean
from gossamer.federated.aggregation.tensors import (
    FactorPair,
    Tensors,
    Upload,
    cut_to_rank,
    learns,
)
from gossamer.federated.client import ClientReply, Order
from gossamer.federated.replies import check_reply
from gossamer.federated.schedule import Round, round_seed
from gossamer.federated.traffic import Traffic, pair_bytes, tensor_bytes

Tell = Callable[[str], None]
"""Gets lines for people."""


def silent(line: str) -> None:
    """Keep the line."""


@dataclass(frozen=True, slots=True)
class Download:
    """What a client is sent in a round."""

    order: Order
    tensors: Tensors
    """What the round begins with, as far as the client does not have it yet, cut to its rank."""
    merged: list[dict[str, FactorPair]]
    """What was added to the base in rounds that the client has not heard of, in their order."""
    fixed: Tensors
    """What the stage has that does not learn, for a client that has not heard of the stage."""
    draw_seed: int | None
    """The seed by which the client draws what the round begins with; None: it is sent."""
    start: Tensors
    """What the stage began with, for a client that hears of it in a later round than its first,
    where the method must know; the first round's `tensors` are just that."""
    since: int
    """The rounds that were over when the client was sent what it is to have already; -1: it need
    have nothing."""

    @property
    def bytes(self) -> int:
        """Return the bytes of the values of all tensors."""
        added = sum(pair_bytes(pairs.values()) for pairs in self.merged)
        return added + sum(map(tensor_bytes, (self.tensors, self.fixed, self.start)))


@dataclass(slots=True)
class ServerState:
    """What a server must remember to go on."""

    tensors: Tensors
    """What the next round begins with, by the names of parameters."""
    round: int = 0
    """The rounds that are over."""
    changed: dict[str, int] = field(default_factory=dict)
    """The round after which each tensor last changed, but for what clients can draw."""
    heard: dict[int, int] = field(default_factory=dict)
    """The rounds that were over when each client was sent what it last answered to."""
    merged: list[dict[str, FactorPair]] = field(default_factory=list)
    """What was added to the base, by round."""
    draw_seed: int | None = None
    """By which seed clients draw `tensors`; None: they are sent."""
    stage_since: int = 0
    """The rounds that were over when the stage began."""
    fixed: Tensors = field(default_factory=dict)
    """What the stage has that does not learn."""
    start: Tensors = field(default_factory=dict)
    """What the stage began with, where its method must know."""


class FederatedServer:
    """Sends, and aggregates. It knows neither rows nor a model."""

    def __init__(
        self, *, seed: int, ranks: Sequence[int] | None = None, uniform: bool = False
    ) -> None:
        """`ranks` are those of the clients, in turn; None: all have that of the tensors.
        `uniform`: every client counts the same, whatever its rows."""
        self.state = ServerState({})
        self._seed = seed
        self._uniform = uniform
        self._ranks = list(ranks) if ranks else None

    def begin_stage(self, tensors: Tensors, fixed: Tensors, *, needs_start: bool) -> None:
        """Begin a stage with `tensors`, which learn, and `fixed`, which do not; `needs_start`:
        whether the method must know later what it began with."""
        state = self.state
        state.tensors, state.fixed = tensors, fixed
        state.start = dict(tensors) if needs_start else {}
        state.changed = dict.fromkeys(tensors, state.round)
        state.stage_since = state.round
        state.draw_seed = None

    def rank_of(self, client: int) -> int | None:
        """Return the rank of a client; None: that of the method."""
        return None if self._ranks is None else self._ranks[client % len(self._ranks)]

    def download(self, plan: Round, client: int, *, lost_all: bool = False) -> Download:
        """Say what a client is sent in the round `plan`: all that it lacks, as far as it has shown
        by an answer that it has the rest; `lost_all`: all, since it has lost what it had."""
        state = self.state
        heard = -1 if lost_all else state.heard.get(client, -1)
        is_new = heard < state.stage_since
        rank = self.rank_of(client)
        news = {
            name: cut_to_rank(name, tensor, rank)
            for name, tensor in state.tensors.items()
            if state.changed[name] > heard and state.draw_seed is None
        }
        return Download(
            Order(
                number=plan.number,
                stage=plan.stage,
                parts=plan.parts,
                learning_rate=plan.learning_rate,
                rank=rank,
                seed=round_seed(self._seed, plan.number, client),
            ),
            news,
            state.merged[max(heard, 0) :],
            state.fixed if is_new else {},
            state.draw_seed,
            state.start if is_new and state.round > state.stage_since else {},
            heard,
        )

    def forget(self, client: int) -> None:
        """Note that a client has lost what it was sent, so that it is sent all again."""
        self.state.heard.pop(client, None)

    def check(self, plan: Round, client: int, reply: ClientReply, *, rows: int | None) -> None:
        """Raise `TrainingError` unless the round can be made of the reply of a client, which has
        `rows` rows; None: that is not known."""
        rank = self.rank_of(client)
        asked = {
            name: cut_to_rank(name, tensor, rank)
            for name, tensor in self.state.tensors.items()
            if learns(name, plan.parts)
        }
        check_reply(reply, asked, rows=rows)

    def finish(self, plan: Round, replies: Mapping[int, ClientReply]) -> dict[str, Any]:
        """Make one adapter of the replies, by client; returns the figures of the round.

        The replies are ones that `check` has passed. Raises `TrainingError` if there is no reply.
        """
        if not replies:
            raise TrainingError(f"round {plan.number}: no client has answered; see the reasons")
        rows = sum(reply.rows for reply in replies.values())
        even = 1 / len(replies)
        uploads = [
            Upload(
                reply.tensors, even if self._uniform else reply.rows / rows, self.rank_of(client)
            )
            for client, reply in sorted(replies.items())
        ]
        aggregation = find_aggregation(plan.aggregation)
        state, before = self.state, self.state.tensors
        seed = self._seed + plan.number
        combined = aggregation.combine(before, uploads, seed=seed)
        distance = distance_to_mean(before, uploads, combined)
        state.heard |= dict.fromkeys(replies, state.round)
        state.round = plan.number
        for name, tensor in combined.tensors.items():
            if tensor is not before[name] and not combined.drawn:
                state.changed[name] = plan.number
        state.tensors = combined.tensors
        state.draw_seed = seed if combined.drawn else None
        state.merged.append(combined.merged)
        up = sum(tensor_bytes(reply.tensors) for reply in replies.values())
        figures: dict[str, Any] = {
            "loss": sum(reply.loss * reply.rows for reply in replies.values()) / rows,
            "clients": sorted(replies),
            "rows": rows,
            "steps": sum(reply.steps for reply in replies.values()),
            "up": up,
        }
        if distance is not None:
            figures["distance"] = distance
        return figures


def total_traffic(records: Sequence[Mapping[str, Any]]) -> Traffic:
    """Add up the bytes of all rounds in the metrics of a run."""
    return sum(
        (Traffic(record["up"], record["down"]) for record in records if "up" in record), Traffic()
    )
