"""What server and clients say to each other, as Flower's records."""

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from gossamer.errors import TrainingError
from gossamer.federated.aggregation.tensors import FactorPair, Tensors
from gossamer.federated.client import ClientReply, Order
from gossamer.federated.server import Download

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
FIXED, START, MERGED = "fixed", "start", "merged"
_ALL = "all"
_NONE = -1
FORGOT = 1001
"""The code of an error by which a client says that it lacks what it was sent before; none of
Flower's own."""


class ForgottenError(TrainingError):
    """A client lacks what the server takes it to have."""


def to_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Make a record of tensors, in their order."""
    return ArrayRecord({name: Array(tensor.numpy()) for name, tensor in tensors.items()})


def to_tensors(record: ArrayRecord) -> Tensors:
    """Make tensors of a record, in its order."""
    return {name: torch.tensor(array.numpy()) for name, array in record.items()}


def pairs_to_record(pairs: Mapping[str, FactorPair]) -> ArrayRecord:
    """Make a record of pairs of factors."""
    held = {f"{path}.A": pair.a for path, pair in pairs.items()}
    return to_record(held | {f"{path}.B": pair.b for path, pair in pairs.items()})


def record_to_pairs(record: ArrayRecord) -> dict[str, FactorPair]:
    """Make pairs of factors of a record."""
    held = to_tensors(record)
    paths = [name.removesuffix(".A") for name in held if name.endswith(".A")]
    return {path: FactorPair(held[f"{path}.A"], held[f"{path}.B"]) for path in paths}


def merged_key(number: int) -> str:
    """Return the name of the record of what a round added to the base."""
    return f"{MERGED}-{number:06d}"


def download_content(download: Download, config: ConfigRecord) -> RecordDict:
    """Make the content of the message that asks a client to learn; `config` is what Flower's own
    strategies say."""
    order = download.order
    said = ConfigRecord(
        {
            **config,
            "round": order.number,
            "stage": order.stage,
            "parts": _ALL if order.parts is None else "".join(sorted(order.parts)),
            "learning-rate": order.learning_rate,
            "rank": _NONE if order.rank is None else order.rank,
            "seed": order.seed,
            "draw-seed": _NONE if download.draw_seed is None else download.draw_seed,
            "since": download.since,
        }
    )
    content = RecordDict({ARRAYS: to_record(download.tensors), CONFIG: said})
    for name, more in ((FIXED, download.fixed), (START, download.start)):
        if more:
            content[name] = to_record(more)
    for number, pairs in enumerate(download.merged, start=max(download.since, 0) + 1):
        if pairs:
            content[merged_key(number)] = pairs_to_record(pairs)
    return content


def read_order(config: ConfigRecord) -> Order:
    """Read what a client is asked to do."""
    values: dict[str, Any] = dict(config)
    parts = values["parts"]
    return Order(
        number=values["round"],
        stage=values["stage"],
        parts=None if parts == _ALL else frozenset(parts),
        learning_rate=values["learning-rate"],
        rank=None if values["rank"] == _NONE else values["rank"],
        seed=values["seed"],
    )


def read_draw_seed(config: ConfigRecord) -> int | None:
    """Read the seed by which a client draws what the round begins with."""
    value: Any = config["draw-seed"]
    return None if value == _NONE else value


def read_since(config: ConfigRecord) -> int:
    """Read how many rounds were over when the client was sent what it is to have already."""
    value: Any = config["since"]
    return int(value)


def reply_content(reply: ClientReply) -> RecordDict:
    """Make the content of a client's answer."""
    metrics = MetricRecord(
        {
            "num-examples": reply.rows,
            "loss": reply.loss,
            "steps": reply.steps,
            "seconds": reply.seconds,
        }
    )
    return RecordDict({ARRAYS: to_record(reply.tensors), METRICS: metrics})


def read_reply(content: RecordDict) -> ClientReply:
    """Read a client's answer; raises `TrainingError` if something is missing in it."""
    metrics: Any = content.get(METRICS)
    arrays: Any = content.get(ARRAYS)
    if not isinstance(metrics, MetricRecord) or not isinstance(arrays, ArrayRecord):
        raise TrainingError(
            f"its reply has the records {sorted(content)} instead of '{ARRAYS}' and '{METRICS}'; "
            "give the client the server's release"
        )
    for name in ("num-examples", "loss", "steps", "seconds"):
        if name not in metrics:
            raise TrainingError(
                f"its reply does not tell '{name}'; give the client the server's release"
            )
    return ClientReply(
        tensors=to_tensors(arrays),
        rows=metrics["num-examples"],
        loss=metrics["loss"],
        steps=metrics["steps"],
        seconds=metrics["seconds"],
    )


def wire_bytes(content: RecordDict) -> int:
    """Return the bytes of all records as Flower counts them: with names and headers of arrays."""
    return sum(record.count_bytes() for record in content.values())
