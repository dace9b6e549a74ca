"""Knows what each token of a vocabulary is made of: bytes, which need not be whole characters."""

import json
import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any
from weakref import WeakKeyDictionary, proxy

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""The spelling of a single byte in vocabularies of SentencePiece."""
_BLANK = "\u2581"
"""The character that stands for a blank in vocabularies of SentencePiece."""


class Vocabulary:
    """The bytes of tokens by id. Any thread may ask, as long as the tokenizer lives."""

    def __init__(self, tokenizer: Any) -> None:
        # `vocabulary_of` keeps it for as long as the tokenizer lives, which it must not prolong.
        self._tokenizer = proxy(tokenizer)
        self._added = {
            id_: str(token) for id_, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
        }
        self._decoders = _decoders(tokenizer)
        self._known: dict[int, bytes] = {}
        cleans_up = getattr(tokenizer, "clean_up_tokenization_spaces", False)
        self.is_concatenated = list(self._decoders) == ["ByteLevel"] and not cleans_up
        """Whether the bytes of a text are those of its tokens one after the other, nothing else."""

    @cached_property
    def special_tokens(self) -> Mapping[str, int]:
        """The ids of special tokens by text: those with a name, and all others that are added as
        special. What `decode` leaves out with `skip_special_tokens`."""
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        found = {token.content: id_ for id_, token in added.items() if token.special}
        named = (self._tokenizer.all_special_tokens, self._tokenizer.all_special_ids)
        for text, id_ in zip(*named, strict=True):
            found.setdefault(text, id_)
        return found

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of special tokens."""
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        found = (id_ for id_, token in added.items() if token.special)
        return frozenset(found).union(self._tokenizer.all_special_ids)

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text; none for an id that has no token."""
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self._bytes_of(token_id)
        return found

    def text_of(self, token_id: int) -> str:
        """The text that the token adds, with U+FFFD for what is no whole character."""
        return self.bytes_of(token_id).decode("utf-8", "replace")

    def _bytes_of(self, token_id: int) -> bytes:
        token = self._added.get(token_id)
        if token is None:
            token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""
        if "ByteLevel" in self._decoders:
            return _from_stand_ins(token)
        if token_id in self._added:
            return bytes(token.encode())
        if "ByteFallback" in self._decoders and (byte := _BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        if self._decoders.keys() & {"Metaspace", "ByteFallback"}:
            return bytes(token.replace(_BLANK, " ").encode())
        if (pieces := self._decoders.get("WordPiece")) is not None:
            # A word's first piece brings the blank before it.
            prefix = pieces.get("prefix", "##")
            return bytes(
                (token.removeprefix(prefix) if token.startswith(prefix) else f" {token}").encode()
            )
        return bytes(self._tokenizer.decode([token_id]).encode())


_VOCABULARIES: "WeakKeyDictionary[Any, Vocabulary]" = WeakKeyDictionary()


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a tokenizer; the same one each time."""
    found = _VOCABULARIES.get(tokenizer)
    if found is None:
        found = _VOCABULARIES.setdefault(tokenizer, Vocabulary(tokenizer))
    return found


def _decoders(tokenizer: Any) -> dict[str, dict[str, Any]]:
    """The steps by which the tokenizers library makes text of tokens, by name; empty for a
    tokenizer that does not use it."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return {}
    state = json.loads(decoder.__getstate__())
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    return {step["type"]: step for step in steps}


def _from_stand_ins(token: str) -> bytes:
    try:
        return bytes(_stand_ins()[character] for character in token)
    except KeyError:  # such as an added token with a blank
        return token.encode()


@lru_cache(1)
def _stand_ins() -> dict[str, int]:
    """The printable characters that stand for bytes in byte-level vocabularies (GPT-2's)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }
