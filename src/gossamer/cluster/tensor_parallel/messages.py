"""What rank 0 tells the other ranks, as bytes: fixed numbers and names, nothing that is executed.

Rank 0 schedules and the others mirror. Each message is a byte for its type and its fields; numbers
are 32 bits wide, little-endian. A step names its adapters by the numbers under which they were
loaded, and the blocks of a sequence by what is new since the step before.
"""

import json
import struct
from dataclasses import dataclass, field
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class StartModel:
    """Load this base model, with these settings."""

    folder: str
    fingerprint: str
    """The digest of the folder's files as rank 0 sees them."""
    settings: dict[str, Any]
    """The fields of `ServeSettings`, as JSON."""


@dataclass(frozen=True, slots=True)
class LoadAdapter:
    """Read an adapter and lay out this rank's part of it, under a number of its own."""

    number: int
    path: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class PlaceAdapter:
    """Copy a loaded adapter into blocks."""

    number: int
    blocks: list[int]


@dataclass(frozen=True, slots=True)
class EvictAdapter:
    """Do without an adapter that was placed: its blocks will have another use."""

    number: int


@dataclass(frozen=True, slots=True)
class ForgetRows:
    """Drop what was kept in host memory of these adapters: rows, and weights merged with them."""

    numbers: list[int]


@dataclass(frozen=True, slots=True)
class MergeAdapter:
    """Make copies of the base layers with a loaded low-rank adapter in their weights."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPart:
    """A sequence's part of a step."""

    tokens: list[int]
    """The tokens to compute."""
    num_computed: int
    """The tokens of the sequence before these."""
    num_prompt: int
    is_due: bool
    """Whether the next token is chosen after these."""
    scored: range
    """See `StepView.scored`."""
    blocks: list[int]
    """Blocks of its own, in order."""
    uses: list[tuple[int, float]] = field(default_factory=list)
    """Numbers of the adapters that the tokens meet, and their weights."""
    prefix_of: int = 0
    """The number of the adapter whose virtual tokens these are, `tokens` saying only how many."""


@dataclass(frozen=True, slots=True)
class RunStep:
    """Compute a step."""

    parts: list[StepPart]
    merged: int = 0
    """The number of the adapter whose merged weights the step runs on; 0: the base's own."""


@dataclass(frozen=True, slots=True)
class CheckAdapters:
    """Compare the adapters in the pool with those of rank 0, and say whether they differ."""

    blocks: dict[str, list[int]]
    """The blocks of each, by number in digits."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Nothing is to be done, and rank 0 is there."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End."""


Message = (
    StartModel
    | LoadAdapter
    | PlaceAdapter
    | EvictAdapter
    | ForgetRows
    | MergeAdapter
    | RunStep
    | CheckAdapters
    | Ping
    | Stop
)
_TYPES: tuple[type[Any], ...] = get_args(Message)
_HEAD = 11
"""Numbers in front of each part of a step."""


class Encoder:
    """Makes bytes of messages; keeps the blocks of the step before."""

    def __init__(self) -> None:
        self._blocks: list[list[int]] = []

    def encode(self, message: Message) -> bytes:
        """Return the bytes of `message`."""
        kind = bytes([_TYPES.index(type(message))])
        fields: list[Any]
        match message:
            case RunStep():
                return kind + self._step(message)
            case StartModel():
                fields = [message.folder, message.fingerprint, message.settings]
                return kind + json.dumps(fields).encode()
            case LoadAdapter():
                fields = [message.number, message.path, message.name, message.digest]
                return kind + json.dumps(fields).encode()
            case CheckAdapters():
                return kind + json.dumps([message.blocks]).encode()
            case PlaceAdapter():
                return kind + _numbers([message.number, *message.blocks])
            case ForgetRows():
                return kind + _numbers(message.numbers)
            case EvictAdapter() | MergeAdapter():
                return kind + _numbers([message.number])
        return kind

    def _step(self, step: RunStep) -> bytes:
        before: dict[int, int] = {
            blocks[0]: place for place, blocks in enumerate(self._blocks) if blocks
        }
        numbers: list[int] = [step.merged, len(step.parts)]
        weights: list[float] = []
        for part in step.parts:
            # Blocks that begin with the same one are those of the same sequence, grown or begun
            # again; if not, they have less in common and more is sent.
            known = before.get(part.blocks[0], -1) if part.blocks else -1
            kept = _in_common(self._blocks[known], part.blocks) if known >= 0 else 0
            fresh = part.blocks[kept:]
            numbers += (
                known, kept, len(fresh), len(part.tokens), part.num_computed, part.num_prompt,
                part.is_due, part.scored.start, part.scored.stop, part.prefix_of, len(part.uses),
            )  # fmt: skip
            numbers += fresh
            numbers += part.tokens
            numbers += [number for number, _ in part.uses]
            weights += [weight for _, weight in part.uses]
        self._blocks = [list(part.blocks) for part in step.parts]
        packed = _numbers(numbers)
        return struct.pack("<I", len(packed)) + packed + np.array(weights, "<f8").tobytes()


class Decoder:
    """Makes messages of bytes; keeps the blocks of the step before, as the encoder does."""

    def __init__(self) -> None:
        self._blocks: list[list[int]] = []

    def decode(self, data: bytes) -> Message:
        """Return the message of `data`; one call for each `encode`, in the same order."""
        kind, rest = _TYPES[data[0]], data[1:]
        if kind is RunStep:
            return self._step(rest)
        if kind in (StartModel, LoadAdapter, CheckAdapters):
            return cast(Message, kind(*json.loads(rest)))
        numbers = np.frombuffer(rest, "<i4").tolist()
        if kind is PlaceAdapter:
            return PlaceAdapter(numbers[0], numbers[1:])
        if kind is ForgetRows:
            return ForgetRows(numbers)
        return cast(Message, kind(*numbers))

    def _step(self, data: bytes) -> RunStep:
        (length,) = struct.unpack_from("<I", data)
        numbers = np.frombuffer(data, "<i4", count=length // 4, offset=4).tolist()
        weights = np.frombuffer(data, "<f8", offset=4 + length).tolist()
        merged, count = numbers[:2]
        place, used = 2, 0
        parts = []
        for _ in range(count):
            head = numbers[place : place + _HEAD]
            known, kept, num_fresh, num_tokens, computed, prompt = head[:6]
            due, first_scored, end_scored, prefix, uses = head[6:]
            place += _HEAD
            lists = []
            for size in (num_fresh, num_tokens, uses):
                lists.append(numbers[place : place + size])
                place += size
            fresh, tokens, adapters = lists
            before = self._blocks[known][:kept] if known >= 0 else []
            parts.append(
                StepPart(
                    tokens=tokens,
                    num_computed=computed,
                    num_prompt=prompt,
                    is_due=bool(due),
                    scored=range(first_scored, end_scored),
                    blocks=[*before, *fresh],
                    uses=list(zip(adapters, weights[used : used + uses], strict=True)),
                    prefix_of=prefix,
                )
            )
            used += uses
        self._blocks = [part.blocks for part in parts]
        return RunStep(parts, merged)


def _numbers(numbers: list[int]) -> bytes:
    array: npt.NDArray[np.int32] = np.array(numbers, "<i4")
    return array.tobytes()


def _in_common(known: list[int], blocks: list[int]) -> int:
    """The length of the beginning that both lists share."""
    if blocks[: len(known)] == known:
        return len(known)
    return next(
        (i for i, (one, other) in enumerate(zip(known, blocks, strict=False)) if one != other),
        min(len(known), len(blocks)),
    )
