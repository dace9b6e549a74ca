"""One client of a federated run as one of Flower's apps.

What a client must remember from round to round lies in Flower's `context.state`, since a supernode
may start a new process for every round.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from gossamer.errors import SettingError
from gossamer.federated.aggregation.flora import fresh_factors
from gossamer.federated.aggregation.tensors import Tensors
from gossamer.federated.client import Learner, Order
from gossamer.federated.flower.messages import (
    ARRAYS,
    CONFIG,
    FIXED,
    FORGOT,
    MERGED,
    METRICS,
    START,
    ForgottenError,
    merged_key,
    read_draw_seed,
    read_order,
    read_since,
    record_to_pairs,
    reply_content,
    to_record,
    to_tensors,
)
from gossamer.federated.flower.nodes import NO_NUMBER
from gossamer.federated.flower.privacy import client_mods
from gossamer.federated.settings import FederatedSettings
from gossamer.training.data import load_data
from gossamer.training.prepare import prepare
from gossamer.training.quiet import quiet_libraries

TENSORS, STAGE = "tensors", "stage"
_NOTHING = {"stage": -1, "over": -1}
"""What a node has that was sent nothing: in which stage, and after how many rounds, it last was."""


def make_client_app(settings: FederatedSettings, files: Sequence[str] = ()) -> ClientApp:
    """Make the app of a client.

    A node's configuration says where its rows are (`data`) and may give its number from 0
    (`partition-id`), its base model (`model`) and its device (`device`). Where it does not say
    where rows are, it has those of `files` that its number counts to.
    """
    app = ClientApp()
    process = _Process(settings, tuple(files))

    @app.query()
    def introduce(message: Message, context: Context) -> Message:
        number: Any = context.node_config.get("partition-id", NO_NUMBER)
        metrics = MetricRecord({"client": int(number)})
        return Message(RecordDict({METRICS: metrics}), reply_to=message)

    @app.train(mods=[tell_reasons, *client_mods(settings)])
    def learn(message: Message, context: Context) -> Message:
        with quiet_libraries():
            content = process.learn(message.content, context)
        return Message(content, reply_to=message)

    return app


def tell_reasons(message: Message, context: Context, call_next: Any) -> Message:
    """Answer with the reason if a client fails, as a mod of Flower's: not all that brings messages
    to clients would tell it in one line."""
    try:
        return cast("Message", call_next(message, context))
    except Exception as error:
        # The whole of it stays with the client, in the log of a supernode.
        logging.getLogger("flwr").info("the client has failed", exc_info=error)
        why = f"{type(error).__name__}: {error}"
        raised = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        code = FORGOT if isinstance(error, ForgottenError) else raised
        return Message(Error(code, why), reply_to=message)


@dataclass
class _Process:
    """What this process has loaded: a model, and the rows of the nodes that live in it.

    Flower's simulation sends it to another process with every message; copies that arrive in the
    same process are one, so that the model is loaded there once.
    """

    settings: FederatedSettings
    files: tuple[str, ...] = ()
    name: str = field(default_factory=lambda: uuid4().hex)
    """Which copies are one."""
    learner: Learner | None = None
    initial: Tensors = field(default_factory=dict)
    """What the model begins with, as the seed says."""
    rows: dict[str, list[Any]] = field(default_factory=dict)
    adopted: int = -1
    """The stage whose start was taken over from the server."""

    def __reduce__(self) -> Any:
        return _arrived, (self.settings, self.files, self.name)

    def learn(self, content: RecordDict, context: Context) -> RecordDict:
        """Learn one round for a node; returns the content of its answer."""
        config: Any = content[CONFIG]
        order = read_order(config)
        _check_memory(context.state, read_since(config))
        data = self._data(context)
        learner = self._load(context, data)
        if data not in self.rows:
            settings = learner.prepared.settings.model_copy(update={"data": data})
            loaded = load_data(settings, learner.prepared.tokenizer, seed=settings.seed)
            self.rows[data] = list(loaded.train)
        learner.enter(order.stage)
        state = context.state
        self._remember(content, state, order, read_draw_seed(config))
        if learner.needs_start and self.adopted < order.stage:
            learner.adopt_start(_tensors(state, START), _tensors(state, FIXED))
            self.adopted = order.stage
        merged = [_pairs(state, number) for number in range(1, order.number)]
        learner.add_to_base(merged if any(merged) else [])
        reply = learner.train(order, _tensors(state, TENSORS), self.rows[data])
        return reply_content(reply)

    def _remember(
        self, content: RecordDict, state: RecordDict, order: Order, draw_seed: int | None
    ) -> None:
        """Put what the server has sent to what the node has already."""
        assert self.learner is not None
        before: Any = state.get(STAGE, _NOTHING)
        is_new = before["stage"] != order.stage
        begins: Tensors = {}
        if draw_seed is not None:
            begins = fresh_factors(self.learner.tensors(), seed=draw_seed)
        elif not is_new:
            begins = _tensors(state, TENSORS)
        elif order.stage == 0:
            begins = dict(self.initial)
        sent: Any = content[ARRAYS]
        tensors = begins | to_tensors(sent)
        state[TENSORS] = to_record(tensors)
        if is_new:
            for name, otherwise in ((FIXED, ArrayRecord()), (START, to_record(tensors))):
                state[name] = content.get(name, otherwise)
        for name in content:
            if name.startswith(f"{MERGED}-"):
                state[name] = content[name]
        # Last: who says that it has it, has all of it.
        state[STAGE] = ConfigRecord({"stage": order.stage, "over": order.number - 1})

    def _data(self, context: Context) -> str:
        data = context.node_config.get("data")
        number: Any = context.node_config.get("partition-id", NO_NUMBER)
        if data is None and 0 <= number < len(self.files):
            return self.files[number]
        if data is None:
            raise SettingError(
                "this node does not say where its rows are; start the supernode with "
                "--node-config 'data=\"/path/to/rows.jsonl\"'"
            )
        return str(data)

    def _load(self, context: Context, data: str) -> Learner:
        if self.learner is None:
            changes: dict[str, Any] = {"data": data, "eval_data": None, "eval_split": 0}
            # Trainers want a folder, and write nothing there.
            changes["output"] = str(Path(tempfile.gettempdir()))
            for name in ("model", "device"):
                if name in context.node_config:
                    changes[name] = context.node_config[name]
            prepared = prepare(self.settings.model_copy(update=changes))
            self.learner = Learner(prepared, rounds=self.settings.rounds)
            self.initial = self.learner.tensors()
        return self.learner


_ARRIVED: dict[str, _Process] = {}


def _arrived(settings: FederatedSettings, files: tuple[str, ...], name: str) -> _Process:
    """Return what this process has loaded of what was sent here under `name`."""
    return _ARRIVED.setdefault(name, _Process(settings, files, name))


def _check_memory(state: RecordDict, since: int) -> None:
    """Raise `ForgottenError` if the node lacks what it was sent when `since` rounds were over."""
    noted: Any = state.get(STAGE, _NOTHING)
    if noted["over"] < since:
        raise ForgottenError(
            f"this node was restarted and does not have what it was sent after round {since}; it "
            "is sent all again in its next round"
        )


def _tensors(state: RecordDict, name: str) -> Tensors:
    record: Any = state.get(name)
    return {} if record is None else to_tensors(record)


def _pairs(state: RecordDict, number: int) -> dict[str, Any]:
    record: Any = state.get(merged_key(number))
    return {} if record is None else record_to_pairs(record)
