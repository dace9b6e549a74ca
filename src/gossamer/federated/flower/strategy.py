"""The rounds of a run as one of Flower's strategies."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from flwr.app import (
    DEFAULT_TTL,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    Metadata,
    MetricRecord,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from gossamer.errors import TrainingError, one_line
from gossamer.federated.aggregation.tensors import Tensors, learns
from gossamer.federated.client import ClientReply
from gossamer.federated.coordinator import Coordinator
from gossamer.federated.flower.messages import (
    FORGOT,
    download_content,
    read_reply,
    to_record,
    to_tensors,
    wire_bytes,
)
from gossamer.federated.flower.nodes import Nodes
from gossamer.federated.schedule import Round, choose_clients
from gossamer.federated.server import Download, Tell


class RoundsStrategy(Strategy):
    """Sends what our server says, and hands it the replies.

    `arrays` of Flower's calls are the tensors that learn in the round; where a strategy around this
    one has changed them (noise), the server goes on with what they are.
    """

    def __init__(
        self, run: Coordinator, nodes: Mapping[int, int], names: Mapping[int, str], tell: Tell
    ) -> None:
        """`nodes`: Flower's id of each client by its number from 0; `names` are for people."""
        self._run = run
        self._nodes = Nodes(nodes)
        self._names = dict(names)
        self._tell = tell
        self._private = run.settings.privacy != "none"
        self._plan: Round | None = None
        self._asked: dict[int, Metadata] = {}
        """The clients of the round, and what their messages will be known by."""
        self._failed: dict[str, str] = {}
        self._down = self._wire_down = 0
        self._left = run.rounds_left()
        # Where a run goes on, nodes are new ones that know nothing.
        self._forgot = set(nodes) if run.server.state.round else set()

    def first_arrays(self) -> ArrayRecord:
        """Return what the first of the rounds that are left begins with."""
        return to_record(self._learning(self._left[0]))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        run, plan = self._run, self._left[server_round - 1]
        self._adopt(arrays)
        self._plan = plan
        run.begin_round(plan)
        for client in self._nodes.refresh(grid):
            run.server.forget(client)
            self._tell(f"round {plan.number}: client {self._names[client]} has a new node")
        nodes = self._nodes.of_client
        wanted, seed = run.settings.clients_per_round, run.settings.seed
        messages = []
        self._failed = {}
        self._down = self._wire_down = 0
        self._asked = {}
        again = 0
        for client in choose_clients(len(nodes), wanted, plan.number, seed):
            download = self._download(plan, client)
            content = download_content(download, config)
            self._down += download.bytes
            self._wire_down += wire_bytes(content)
            if client in self._forgot:
                # The figures are those of a run that was never stopped.
                whole = self._download(plan, client, lost_all=True)
                content = download_content(whole, config)
                again += whole.bytes - download.bytes
            message = Message(
                content,
                nodes[client],
                MessageType.TRAIN,
                group_id=str(plan.number),
                # Longer than the round: clocks of machines differ.
                ttl=DEFAULT_TTL + run.settings.round_seconds,
            )
            # Not the message: its content would stay in memory for the round.
            self._asked[client] = message.metadata
            messages.append(message)
        if again:
            self._tell(f"clients are sent again what they had: {again:,} B, which are not counted")
        return messages

    def answers(self, replies: Iterable[Message]) -> list[Message]:
        """Return the replies of clients that have learnt, and note why the others failed."""
        return [message for message, _, _ in self._read(replies)]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        run, plan = self._run, self._left[server_round - 1]
        found: dict[int, ClientReply] = {}
        wire_up = 0
        for message, client, reply in self._read(replies):
            wire_up += wire_bytes(message.content)
            found[client] = reply
        failed = self._failed
        for client in self._asked:
            if client not in found:
                failed.setdefault(self._names[client], "it did not answer in time")
        for name, why in failed.items():
            self._tell(f"round {plan.number}: client {name} failed: {why}")
        self._forgot -= set(found)
        figures = {"down": self._down, "wire_up": wire_up, "wire_down": self._wire_down}
        run.finish_round(plan, found, failed=failed, names=self._names, figures=figures)
        return to_record(self._learning(plan)), None

    def judge(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate and save after a round; Flower calls this when all strategies are through."""
        if server_round > 0:
            self._adopt(arrays)
            self._run.adopt()
            self._run.judge_round(self._left[server_round - 1])
        return None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        return None

    def summary(self) -> None:
        """Say nothing: the run tells what there is to tell."""

    def _read(self, replies: Iterable[Message]) -> list[tuple[Message, int, ClientReply]]:
        """Read the replies that a round can be made of, and note why the others failed.

        Whose they are is told by what they reply to: the superlink signs for nodes that are gone.
        """
        of_message = {sent.message_id: client for client, sent in self._asked.items()}
        good = []
        for message in replies:
            client = of_message.get(message.metadata.reply_to_message_id)
            if client is None:
                continue
            try:
                good.append((message, client, self._judged(message, client)))
            except Exception as error:
                # Whatever one client sends is not to end the round of the others.
                self._failed[self._names[client]] = one_line(str(error) or type(error).__name__)
        return good

    def _judged(self, message: Message, client: int) -> ClientReply:
        assert self._plan is not None, "configure_train comes first"
        if message.has_error():
            if message.error.code == FORGOT:
                self._run.server.forget(client)
            raise TrainingError(message.error.reason or "no reason told")
        reply = read_reply(message.content)
        self._run.check_reply(self._plan, client, reply, self._names[client])
        return reply

    def _download(self, plan: Round, client: int, *, lost_all: bool = False) -> Download:
        download = self._run.download(plan, client, lost_all=lost_all)
        # Privacy clips the difference to what was sent, so all that learns is sent again.
        return replace(download, tensors=self._learning(plan)) if self._private else download

    def _learning(self, plan: Round) -> Tensors:
        tensors = self._run.server.state.tensors
        return {name: value for name, value in tensors.items() if learns(name, plan.parts)}

    def _adopt(self, arrays: ArrayRecord) -> None:
        """Take over what a strategy around this one has made of the tensors."""
        if not self._private:
            return
        held: dict[str, Any] = self._run.server.state.tensors
        for name, tensor in to_tensors(arrays).items():
            held[name] = tensor.to(held[name].dtype)
