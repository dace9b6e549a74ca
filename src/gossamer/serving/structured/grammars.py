"""Compiles the forms that requests ask for, each once, and gives each sequence its own matcher."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from gossamer.errors import RequestError
from gossamer.serving.core.daemon_threads import DaemonThreads
from gossamer.serving.core.messages import StructuredOutputs
from gossamer.serving.core.stats import GRAMMAR_BOUNDS, GrammarStats, Histogram
from gossamer.serving.structured.bounds import FormError, check_size
from gossamer.serving.structured.compiling import STACK_BYTES, compile_form
from gossamer.serving.structured.library_tokenizer import make_tokenizer
from gossamer.serving.structured.matcher import GrammarMatcher, MaskThread
from gossamer.serving.structured.trials import FormTrials

MAX_GRAMMARS = 256
"""Compiled grammars that are kept, the last ones that were asked for."""
MAX_KEPT_CHARACTERS = 1_000_000
"""The most characters of their texts together."""
COMPILE_SECONDS = 10.0
"""A form that takes longer to compile is refused."""
SAFE_KINDS = frozenset({"choice"})
"""Forms of these kinds are not tried out first: they are one terminal, of which the library bounds
the work."""


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
        # What is compiled here has been compiled in another process before, within its time.
        self._threads = DaemonThreads(
            "gossamer-grammars", limit_seconds=3 * COMPILE_SECONDS, most=4, stack_bytes=STACK_BYTES
        )
        self._trials = FormTrials(lambda: tokenizer.all_special_tokens, COMPILE_SECONDS)
        self._lock = threading.Lock()
        self._lock_of_tokenizer = threading.Lock()
        self._known: LLTokenizer | None = None
        self._kept: OrderedDict[tuple[str, str], Future[_Compiled]] = OrderedDict()
        self._num_characters = 0
        self._num_hits = self._num_refused = self._num_asked = 0
        self._seconds = Histogram(GRAMMAR_BOUNDS)

    def matcher(self, asked: StructuredOutputs, *, ignores_ends: bool = False) -> GrammarMatcher:
        """Make what follows one sequence through what is `asked` for; waits while it is compiled.

        `ignores_ends`: see `SamplingParams.ignore_eos`. Raises `RequestError` that names the place
        of what is wrong, not supported, or too large.
        """
        key = (asked.kind, asked.text)
        try:
            compiled = self._counted(key)
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
        """End the threads and processes."""
        self._masks.close()
        self._trials.close()
        self._threads.shutdown(wait=False)

    @property
    def num_kept(self) -> int:
        """Return how many grammars are kept."""
        return len(self._kept)

    def stats(self) -> GrammarStats:
        """Take a snapshot of the figures."""
        with self._lock:
            return GrammarStats(
                asked=self._num_asked,
                hits=self._num_hits,
                refused=self._num_refused,
                kept=len(self._kept),
                seconds=self._seconds.stats(),
            )

    def _tokenizer(self) -> LLTokenizer:
        with self._lock_of_tokenizer:
            if self._known is None:
                if not self._ends:
                    raise FormError("the base model names no end-of-text token")
                self._known = make_tokenizer(self._source, self._ends, self._vocab_size)
            return self._known

    def _counted(self, key: tuple[str, str]) -> _Compiled:
        with self._lock:
            self._num_asked += 1
        try:
            check_size(key[1])
            return self._compiled(key)
        except (FormError, TimeoutError):
            with self._lock:
                self._num_refused += 1
            raise

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
                self._num_hits += 1
                self._kept.move_to_end(key)
        try:
            return future.result()
        except BaseException:
            self._forget(key)
            raise

    def _compile(self, kind: str, text: str) -> _Compiled:
        started = time.perf_counter()
        try:
            if kind not in SAFE_KINDS:
                self._trials.check(kind, text)
            matcher, first = compile_form(self._tokenizer(), kind, text)
        finally:
            with self._lock:
                self._seconds.observe(time.perf_counter() - started)
        return _Compiled(matcher, np.frombuffer(first, dtype=np.uint32))

    def _forget(self, key: tuple[str, str]) -> None:
        """Have `key` compiled afresh when it is asked for again."""
        with self._lock:
            if self._kept.pop(key, None) is not None:
                self._num_characters -= len(key[1])
