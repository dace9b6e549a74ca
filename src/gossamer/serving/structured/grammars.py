"""Compiles the forms that requests ask for, each once, and gives each sequence its own matcher."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from gossamer.errors import RequestError, cut
from gossamer.serving.core.daemon_threads import DaemonThreads
from gossamer.serving.core.messages import StructuredOutputs
from gossamer.serving.structured.bounds import FormError, check_size
from gossamer.serving.structured.library_tokenizer import make_tokenizer
from gossamer.serving.structured.matcher import GrammarMatcher, MaskThread
from gossamer.serving.structured.sources import MAX_REASON, grammar_of, place_of

MAX_GRAMMARS = 256
"""Compiled grammars that are kept, the last ones that were asked for."""
MAX_KEPT_CHARACTERS = 1_000_000
"""The most characters of their texts together."""
COMPILE_SECONDS = 10.0
"""A form that takes longer to compile is refused."""

STACK_BYTES = 512 * 1024**2
"""The library descends into schemas and rules by recursion: a chain of as many references as the
largest text has room for takes a fifth of this. It is only taken where it is used."""

_LIMITS = LLParserLimits(
    # Ambiguous grammars make a row of thousands of items, whose squares are looked through: the
    # schema of a thousand properties takes a tenth of this.
    max_items_in_row=500,
    step_max_items=20_000,
    initial_lexer_fuel=500_000,
    step_lexer_fuel=200_000,
    # Some 2 KiB each: a grammar takes 60 MiB at the most.
    max_lexer_states=30_000,
    max_grammar_size=200_000,
    # What it would say of its own state is nothing to a user.
    verbose_errors=False,
)


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A grammar at its begin."""

    matcher: LLMatcher
    first: NDArray[np.uint32]
    """The mask of the first token."""


class Grammars:
    """The grammars of one vocabulary. Any thread may ask."""

    def __init__(self, tokenizer: Any, ends: Iterable[int], vocab_size: int) -> None:
        """`tokenizer` is Hugging Face's; `ends` are the end-of-text tokens; `vocab_size` is the
        number of tokens of which there are logits. The first use takes about a second."""
        self._source = tokenizer
        self._ends = tuple(sorted(ends))
        self._vocab_size = vocab_size
        self._masks = MaskThread()
        self._threads = DaemonThreads(
            "gossamer-grammars", limit_seconds=COMPILE_SECONDS, most=4, stack_bytes=STACK_BYTES
        )
        self._lock = threading.Lock()
        self._lock_of_tokenizer = threading.Lock()
        self._known: LLTokenizer | None = None
        self._kept: OrderedDict[tuple[str, str], Future[_Compiled]] = OrderedDict()
        self._num_characters = 0

    def matcher(self, asked: StructuredOutputs, *, ignores_ends: bool = False) -> GrammarMatcher:
        """Make what follows one sequence through what is `asked` for; waits while it is compiled.

        `ignores_ends`: see `SamplingParams.ignore_eos`. Raises `RequestError` that names the place
        of what is wrong, not supported, or too large.
        """
        key = (asked.kind, asked.text)
        try:
            check_size(key[1])
            compiled = self._compiled(key)
        except FormError as error:
            message = f"'{asked.asked_as}' ({asked.kind}) cannot be kept to: {error}"
            raise RequestError(message, param=asked.asked_as) from None
        except TimeoutError:
            raise RequestError(
                f"'{asked.asked_as}' ({asked.kind}) takes more than {COMPILE_SECONDS:g} seconds to "
                "compile; make it simpler",
                param=asked.asked_as,
            ) from None
        return GrammarMatcher(
            compiled.matcher.deep_copy(),
            self._masks,
            first=compiled.first,
            ends=self._ends,
            ignores_ends=ignores_ends,
            field=asked.asked_as,
            broken=lambda: self._forget(key),
        )

    def close(self) -> None:
        """End the threads."""
        self._masks.close()
        self._threads.shutdown(wait=False)

    @property
    def num_kept(self) -> int:
        """Return how many grammars are kept."""
        return len(self._kept)

    def _tokenizer(self) -> LLTokenizer:
        with self._lock_of_tokenizer:
            if self._known is None:
                if not self._ends:
                    raise FormError("the base model names no end-of-text token")
                self._known = make_tokenizer(self._source, self._ends, self._vocab_size)
            return self._known

    def _compiled(self, key: tuple[str, str]) -> _Compiled:
        with self._lock:
            future = self._kept.get(key)
            if future is None:
                future = self._kept[key] = self._threads.submit(self._compile, *key)
                self._num_characters += len(key[1])
                while len(self._kept) > MAX_GRAMMARS or self._num_characters > MAX_KEPT_CHARACTERS:
                    (_, oldest), _ = self._kept.popitem(last=False)
                    self._num_characters -= len(oldest)
            else:
                self._kept.move_to_end(key)
        try:
            return future.result()
        except BaseException:
            self._forget(key)
            raise

    def _compile(self, kind: str, text: str) -> _Compiled:
        try:
            grammar = grammar_of(kind, text)
        except (ValueError, OverflowError, TypeError) as error:
            # Of these, a `FormError` says what is wrong, and the library's say it as well.
            raise FormError(cut(str(error), MAX_REASON)) from None
        matcher = LLMatcher(self._tokenizer(), grammar, log_level=0, limits=_LIMITS)
        first = np.zeros(-(-self._vocab_size // 32), dtype=np.uint32)
        if not matcher.is_error():
            matcher.unsafe_compute_mask_ptr(first.ctypes.data, first.nbytes)
        reason = matcher.get_error() or _trouble(matcher, first)
        if reason:
            raise FormError(place_of(kind, text, reason))
        return _Compiled(matcher, first)

    def _forget(self, key: tuple[str, str]) -> None:
        """Have `key` compiled afresh when it is asked for again."""
        with self._lock:
            if self._kept.pop(key, None) is not None:
                self._num_characters -= len(key[1])


def _trouble(matcher: LLMatcher, first: NDArray[np.uint32]) -> str:
    """The library's error at the first token that may come; empty if there is none.

    That a grammar has too many ways to go on shows there.
    """
    (allowed,) = np.nonzero(np.unpackbits(first.view(np.uint8), bitorder="little"))
    trial = matcher.deep_copy()
    if not trial.consume_token(int(allowed[-1])):
        return trial.get_error() or "its first token cannot be taken"
    return ""
