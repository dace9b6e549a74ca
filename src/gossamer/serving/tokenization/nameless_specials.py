"""A tokenizer to which special tokens are known by secret names alone."""

import secrets
from collections.abc import Mapping
from typing import Any

from gossamer.errors import RequestError

_CANNOT = (
    "the text holds what this model's tokenizer takes for special tokens and cannot take for text; "
    "leave it out, or start the server with --special-tokens everywhere"
)


class NamelessSpecials:
    """Encodes as the tokenizer it is made from, but for the text of special tokens.

    It shares the vocabulary and the merges of that one, so that it costs next to nothing.
    """

    def __init__(self, tokenizer: Any, specials: Mapping[str, int]) -> None:
        """Make the tokenizer; `specials` are the ids of special tokens by their text.

        Raises `RequestError` for a tokenizer that is not of the tokenizers library.
        """
        from tokenizers import AddedToken, Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise RequestError(_CANNOT)
        self._tokenizer = Tokenizer(backend.model)
        for part in ("normalizer", "pre_tokenizer", "post_processor"):
            if (own := getattr(backend, part)) is not None:
                setattr(self._tokenizer, part, own)
        self.names: dict[str, str] = {}
        """The secret name of each special token, by its text."""
        self._specials = frozenset(specials.values()) - {tokenizer.unk_token_id}
        self._ids: dict[int, int] = {}
        added = dict(backend.get_added_tokens_decoder())
        added |= {
            id_: AddedToken(text, normalized=False)
            for text, id_ in specials.items()
            if id_ not in added
        }
        secret = secrets.token_hex(16)
        for id_, token in sorted(added.items()):
            name = token.content
            if name in specials:
                name = f"<{secret}-{id_}>"
                self.names[token.content] = name
            self._tokenizer.add_tokens([_renamed(token, name)])
            # Whatever it is numbered here, it is the same token.
            own = self._tokenizer.token_to_id(name)
            assert own is not None
            self._ids[own] = id_

    def encode(self, text: str, *, is_whole: bool = False) -> tuple[int, ...]:
        """Encode `text`; `is_whole`: with what the tokenizer puts around every text.

        Raises `RequestError` if the vocabulary itself makes a special token of a text.
        """
        found = self._tokenizer.encode(text, add_special_tokens=is_whole).ids
        if not is_whole and any(i in self._specials and i not in self._ids for i in found):
            raise RequestError(_CANNOT)
        return tuple(self._ids.get(i, i) for i in found)


def _renamed(token: Any, name: str) -> Any:
    from tokenizers import AddedToken

    return AddedToken(
        name,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
    )
