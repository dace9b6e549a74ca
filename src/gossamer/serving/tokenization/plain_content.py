"""Encodes conversations whose texts hold the text of special tokens, so that it stays text.

The template is rendered with signs in place of what looks like a special token in a message. What
is left of special tokens then is the template's own, and gets the names under which alone a copy of
the tokenizer knows them. So the whole is encoded at once, and the token ids are those of every
other conversation, blanks and merges at the borders included.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

from gossamer.errors import RequestError
from gossamer.serving.tokenization.nameless_specials import NamelessSpecials
from gossamer.serving.tokenization.vocabulary import vocabulary_of

_SIGNS = range(0xF0000, 0xFFFFE)
"""The range of characters for private use."""

_WORDS_OF = {
    "role": frozenset({"system", "user", "assistant", "tool"}),
    "type": frozenset(
        {"function", "text", "object", "array", "string", "number", "integer", "boolean", "null"}
    ),
}
"""Values that are words of the interface, which templates compare, by their keys."""
_KEYS = frozenset(
    {
        *("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"),
        *("type", "function", "arguments", "id", "description", "parameters", "properties"),
        *("required", "items", "enum", "anyOf", "default"),
    }
)
"""Keys that are words of the interface, which templates read."""

_SHORTEST_END = 2
"""A text that ends (or begins) with this many characters of a special token's start (or end) may be
completed by what the template puts beside it."""


class PlainContent:
    """Encodes texts as text, whatever they look like. Any thread may ask."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens = vocabulary_of(tokenizer).special_tokens
        longest_first = sorted(filter(None, self._tokens), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._begins = {t[:n] for t in longest_first for n in range(_SHORTEST_END, len(t))}
        self._ends = {t[-n:] for t in longest_first for n in range(_SHORTEST_END, len(t))}
        self._longest = max(map(len, longest_first), default=0)

    def is_touched(self, value: Any) -> bool:
        """Whether a text in `value` (a text, a message, a tool, or a list of them) is more than
        text to the tokenizer, or might become it."""
        return any(
            self._pattern.search(text) or any(self._cuts(text)) or self._is_normalized_to_one(text)
            for text in _texts(value)
        )

    def encode(self, text: str, *, is_whole: bool = True) -> tuple[int, ...]:
        """Encode all of it as text; `is_whole`: with what the tokenizer puts around every text."""
        found = self._copy.encode(text)
        return self._copy.encode(text, is_whole=True) if is_whole else found

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        from_people: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> tuple[int, ...]:
        """Encode by the chat template.

        Args:
            messages: the conversation.
            from_people: what `apply_chat_template` gets beside it that clients have written, such
                as `tools`.
            options: what it gets from the server.

        Raises `RequestError` for texts that hold every character for private use.
        """
        copy = self._copy
        sign = _unused_sign([messages, from_people])
        hidden: list[str] = []

        def hide(text: str) -> str:
            hidden.append(text)
            return f"{sign}{len(hidden) - 1}{sign}"

        def mark(text: str) -> str:
            return self._marked(text, hide)

        rendered = self._tokenizer.apply_chat_template(
            [_replaced(message, mark) for message in messages],
            tokenize=False,
            **{name: _replaced(value, mark) for name, value in from_people.items()},
            **options,
        )
        rendered = self._pattern.sub(lambda found: copy.names[found[0]], rendered)
        rendered = re.sub(f"{sign}([0-9]+){sign}", lambda found: hidden[int(found[1])], rendered)
        return copy.encode(rendered)

    @cached_property
    def _copy(self) -> NamelessSpecials:
        return NamelessSpecials(self._tokenizer, self._tokens)

    def _marked(self, text: str, hide: Callable[[str], str]) -> str:
        begin = len(text) - len(text.lstrip())
        end = max(begin, len(text.rstrip()))
        head, tail = self._cuts(text)
        if head + tail > end - begin:
            head, tail = end - begin, 0
        middle = self._pattern.sub(lambda found: hide(found[0]), text[begin + head : end - tail])
        return "".join(
            (
                text[:begin],
                hide(text[begin : begin + head]) if head else "",
                middle,
                hide(text[end - tail : end]) if tail else "",
                text[end:],
            )
        )

    def _cuts(self, text: str) -> tuple[int, int]:
        """The characters at start and end, but for blanks, that a neighbour could complete."""
        body = text.strip()
        lengths = range(min(self._longest, len(body)), _SHORTEST_END - 1, -1)
        head = next((n for n in lengths if body[:n] in self._ends), 0)
        tail = next((n for n in lengths if body[-n:] in self._begins), 0)
        return head, tail

    def _is_normalized_to_one(self, text: str) -> bool:
        """Whether `text` holds a special token once other spellings are made one, as some do."""
        if self._normalizer is None:
            return False
        found = self._normalized_pattern.search(self._normalizer.normalize_str(text))
        return found is not None

    @cached_property
    def _normalizer(self) -> Any:
        added = getattr(self._tokenizer, "added_tokens_decoder", {}).values()
        is_used = any(token.special and token.normalized for token in added)
        return self._backend.normalizer if is_used and self._backend is not None else None

    @cached_property
    def _normalized_pattern(self) -> re.Pattern[str]:
        # Without the blank that some put before every text.
        texts = [self._normalizer.normalize_str(text).lstrip(" \u2581") for text in self._tokens]
        return re.compile("|".join(re.escape(text) for text in texts if text) or r"(?!)")

    @property
    def _backend(self) -> Any:
        return getattr(self._tokenizer, "backend_tokenizer", None)


def _unused_sign(value: Any) -> str:
    """A character for private use that no text in `value` holds."""
    written: set[str] = set().union(*_texts(value))
    for code in _SIGNS:
        if chr(code) not in written:
            return chr(code)
    raise RequestError(
        f"the texts hold every character from U+{_SIGNS[0]:X} to U+{_SIGNS[-1]:X}, of which one "
        "must be free to keep what looks like special tokens text; leave one of them out",
        param="messages",
    )


def _texts(value: Any) -> Iterator[str]:
    """The texts that people have written in a message or a tool, or in a list of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key not in _KEYS:
                yield key
            if not _is_word(key, each):
                yield from _texts(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)


def _replaced(value: Any, change: Callable[[str], str]) -> Any:
    """Copy a message or a tool with `change` applied to each text that people have written."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            key if key in _KEYS else change(key): (
                each if _is_word(key, each) else _replaced(each, change)
            )
            for key, each in value.items()
        }
    if isinstance(value, Sequence):
        return [_replaced(each, change) for each in value]
    return value


def _is_word(key: str, value: Any) -> bool:
    return isinstance(value, str) and value in _WORDS_OF.get(key, ())
