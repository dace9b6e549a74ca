"""What rows are known again by: the whole of one, the same roughly, and what it asks.

Roughly the same are texts that differ in case, space and punctuation alone. A print is a digest, so
that those of millions of rows fit in memory.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from gossamer.training.data.check import (
    Conversation,
    Message,
    Passage,
    Preference,
    PromptCompletion,
    Sample,
)

LeftOut = Literal["duplicates", "near-duplicates", "held-out"]
"""Kinds of rows that a run can leave out."""

_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class RowPrint:
    """The prints of one row."""

    whole: bytes
    """Shared by rows that say the same, word for word."""
    rough: bytes
    """Shared by rows that say roughly the same."""
    prompt: bytes
    """Shared by rows that ask roughly the same; plain text, which asks nothing, has its `rough`."""


def row_print(sample: Sample) -> RowPrint:
    """Take the prints of a sample."""
    texts = list(_texts(sample))
    rough = _digest(folded(text) for text in texts)
    asked = [folded(text) for text in _prompt(sample)]
    return RowPrint(_digest(texts), rough, _digest(asked) if asked else rough)


def folded(text: str) -> str:
    """The text without case, space and punctuation; of one that has nothing else, all but case."""
    lower = text.casefold()
    return _NEITHER_LETTER_NOR_DIGIT.sub("", lower) or lower.strip()


def answer_of(sample: Sample) -> str:
    """What is learnt of a sample: its answers, or its text; of a preference the chosen answer."""
    if isinstance(sample, Preference):
        return answer_of(sample.chosen)
    if isinstance(sample, Passage):
        return sample.text
    if isinstance(sample, PromptCompletion):
        return sample.completion
    return "\n".join(_said(sample.messages[number]) for number in sample.trained)


class Sieve:
    """Lets through the rows of one source that a run learns from, in their order."""

    def __init__(self, kinds: Collection[LeftOut], prompts: Collection[bytes] = ()) -> None:
        """`kinds` are left out; `prompts` are the prints of what held-out rows ask."""
        self._kinds = kinds
        self._prompts = prompts
        self._seen: set[bytes] = set()
        self.left_out: dict[str, list[int]] = {kind: [] for kind in kinds}
        """The numbers of the rows that were left out, by kind."""

    def keeps(self, number: int, sample: Sample) -> bool:
        """Whether the row with that number is learnt from; the first of its like is."""
        if not self._kinds:
            return True
        found = row_print(sample)
        kind = self._kind_of(found)
        if kind is not None:
            self.left_out[kind].append(number)
            return False
        self._seen |= {found.whole, found.rough}
        return True

    def _kind_of(self, found: RowPrint) -> LeftOut | None:
        if "held-out" in self._kinds and found.prompt in self._prompts:
            return "held-out"
        if "duplicates" in self._kinds and found.whole in self._seen:
            return "duplicates"
        if "near-duplicates" in self._kinds and found.rough in self._seen:
            return "near-duplicates"
        return None


def _texts(sample: Sample) -> Iterable[str]:
    """All that a sample says, with who says it and whether it is learnt."""
    if isinstance(sample, Preference):
        yield from _texts(sample.chosen)
        yield from _texts(sample.rejected)
    elif isinstance(sample, Passage):
        yield sample.text
    elif isinstance(sample, PromptCompletion):
        yield from ("user", sample.prompt, "assistant", sample.completion)
    else:
        trained = set(sample.trained)
        for number, message in enumerate(sample.messages):
            is_context = message["role"] == "assistant" and number not in trained
            yield "context" if is_context else message["role"]
            yield _said(message)
        if sample.tools:
            yield _json(sample.tools)


def _prompt(sample: Sample) -> list[str]:
    """What stands before the first answer that is learnt; the system's words are not asked."""
    if isinstance(sample, Preference):
        return _prompt(sample.chosen)
    if isinstance(sample, PromptCompletion):
        return [sample.prompt]
    if isinstance(sample, Conversation):
        before = sample.messages[: min(sample.trained, default=0)]
        return [_said(message) for message in before if message["role"] != "system"]
    return []


def _said(message: Message) -> str:
    """What a message says, its calls included."""
    content: str = message["content"] or ""
    calls = [_json(call["function"]) for call in message.get("tool_calls", ())]
    return "\n".join(filter(None, (content, *calls))) if calls else content


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _digest(texts: Iterable[str]) -> bytes:
    found = hashlib.sha1(usedforsecurity=False)
    for text in texts:
        # Surrogates cannot be here: the check of a row refuses them.
        data = text.encode()
        found.update(len(data).to_bytes(8, "big") + data)
    return found.digest()
