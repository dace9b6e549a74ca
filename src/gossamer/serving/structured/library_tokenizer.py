"""Tells the library what the tokens of a vocabulary are made of."""

import logging
from collections.abc import Sequence
from copy import copy
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper

from gossamer.serving.tokenization.vocabulary import Vocabulary, vocabulary_of

log = logging.getLogger(__name__)


def make_tokenizer(tokenizer: Any, ends: Sequence[int], vocab_size: int) -> LLTokenizer:
    """Make the library's tokenizer of Hugging Face's.

    Where the library reads the tokenizers library's own format, it knows also which tokens a text
    is written with, and asks for those where a grammar leaves one text alone. Else it gets the
    bytes of the tokens, and any of them that spell the text will do.
    """
    vocabulary = vocabulary_of(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # A copy: others use this one.
        backend = copy(backend)
        backend.no_padding()
        backend.no_truncation()
        try:
            made = LLTokenizer(backend.to_str(), n_vocab=vocab_size, eos_token=list(ends))
        except Exception as error:
            log.info("grammars: the tokenizer's format is not known (%s); its bytes are", error)
        else:
            if _agree(made, vocabulary, tokenizer):
                return made
            log.info("grammars: the tokenizer's own bytes differ from the library's; they count")
    return LLTokenizer(
        TokenizerWrapper(_Bytes(tokenizer, vocabulary, ends, vocab_size)),
        n_vocab=vocab_size,
        eos_token=list(ends),
    )


def _agree(made: LLTokenizer, vocabulary: Vocabulary, tokenizer: Any) -> bool:
    special = vocabulary.special_ids
    return all(
        made.decode_bytes([token]) == vocabulary.bytes_of(token)
        for token in tokenizer.get_vocab().values()
        if token not in special
    )


class _Bytes:
    """The tokens of a vocabulary as the library asks for them."""

    def __init__(
        self, tokenizer: Any, vocabulary: Vocabulary, ends: Sequence[int], vocab_size: int
    ) -> None:
        self.eos_token_id = ends[0]
        self.bos_token_id = tokenizer.bos_token_id
        self.tokens = [vocabulary.bytes_of(token) for token in range(vocab_size)]
        self.special_token_ids = sorted(vocabulary.special_ids.union(ends))
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids
