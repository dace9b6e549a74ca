"""Compiles the forms that requests ask for, each once, and gives each sequence its own matcher."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

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
from gossamer.serving.tokenization.vocabulary import vocabulary_of

MAX_GRAMMARS = 256
"""Compiled grammars that are kept, the last ones that were asked for."""
MAX_KEPT_CHARACTERS = 1_000_000
"""The most characters of their texts together."""
COMPILE_SECONDS = 10.0
"""A form that takes longer to compile is refused."""
SAFE_KINDS = frozenset({"choice"})
"""Forms of these kinds are not tried out first: they are one terminal, of which the library bounds
the work."""


_Key = tuple[str, str, str | None]
"""The kind and the text of a form, and what it stands in."""


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
        self._trials = FormTrials(
            lambda: list(vocabulary_of(tokenizer).special_tokens), COMPILE_SECONDS
        )
        self._lock = threading.Lock()
        self._lock_of_tokenizer = threading.Lock()
        self._known: LLTokenizer | None = None
        self._kept: OrderedDict[_Key, Future[_Compiled]] = OrderedDict()
        # Those that callers of `prepare` hold, which may have been dropped from the others.
        self._held: WeakValueDictionary[_Key, Future[_Compiled]] = WeakValueDictionary()
        # Prepared and not asked for yet: the first to ask found nothing compiled.
        self._fresh: set[_Key] = set()
        self._num_characters = 0
        self._num_hits = self._num_refused = self._num_asked = 0
        self._seconds = Histogram(GRAMMAR_BOUNDS)

    def matcher(self, asked: StructuredOutputs, *, ignores_ends: bool = False) -> GrammarMatcher:
        """Make what follows one sequence through what is `asked` for; waits while it is compiled.

        `ignores_ends`: see `SamplingParams.ignore_eos`. Raises `RequestError` that names the place
        of what is wrong, not supported, or too large.
        """
        key = (asked.kind, asked.text, asked.frame)
        try:
            compiled = self._counted(key)
        except (FormError, TimeoutError) as error:
            raise _refusal(asked, error) from None
        return GrammarMatcher(
            compiled.matcher.deep_copy(),
            self._masks,
            first=compiled.first,
            ends=self._ends,
            ignores_ends=ignores_ends,
            field=asked.asked_as,
            broken=lambda: self._forget(key),
        )

    def prepare(self, asked: StructuredOutputs) -> "Future[object]":
        """Have what is `asked` for compiled; `matcher` does not wait once the future is done.

        It finds it as long as the future is held. The future raises what `matcher` would raise.
        """
        key = (asked.kind, asked.text, asked.frame)
        told: Future[object] = Future()
        # A caller that leaves does not cancel it.
        told.set_running_or_notify_cancel()

        def tell(done: Future[_Compiled]) -> None:
            error = TimeoutError() if done.cancelled() else done.exception()
            if error is None:
                told.set_result(done)
                return
            self._forget(key)
            told.set_exception(self._refused(asked, error))

        try:
            check_size(key[1])
        except FormError as error:
            told.set_exception(self._refused(asked, error))
            return told
        with self._lock:
            future, is_new = self._future(key)
            self._held[key] = future
            if is_new:
                self._fresh.add(key)
        future.add_done_callback(tell)
        return told

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

    def _counted(self, key: _Key) -> _Compiled:
        with self._lock:
            self._num_asked += 1
        try:
            check_size(key[1])
            return self._compiled(key)
        except (FormError, TimeoutError):
            with self._lock:
                self._num_refused += 1
            raise

    def _refused(self, asked: StructuredOutputs, error: BaseException) -> BaseException:
        """Count a form that failed before any matcher was asked for; what its caller is told."""
        if not isinstance(error, FormError | TimeoutError):
            return error
        with self._lock:
            self._num_asked += 1
            self._num_refused += 1
        return _refusal(asked, error)

    def _compiled(self, key: _Key) -> _Compiled:
        with self._lock:
            future, is_new = self._future(key)
            if not is_new and key not in self._fresh:
                self._num_hits += 1
            self._fresh.discard(key)
        try:
            return future.result()
        except BaseException:
            self._forget(key)
            raise

    def _future(self, key: _Key) -> tuple["Future[_Compiled]", bool]:
        """What is or was compiled for `key`, and whether that begins now. Holds the lock."""
        future = self._kept.get(key)
        if future is not None:
            self._kept.move_to_end(key)
            return future, False
        held = self._held.get(key)
        future = held or self._threads.submit(self._compile, *key)
        self._kept[key] = future
        self._num_characters += len(key[1])
        while len(self._kept) > MAX_GRAMMARS or self._num_characters > MAX_KEPT_CHARACTERS:
            oldest, _ = self._kept.popitem(last=False)
            self._fresh.discard(oldest)
            self._num_characters -= len(oldest[1])
        return future, held is None

    def _compile(self, kind: str, text: str, frame: str | None) -> _Compiled:
        started = time.perf_counter()
        try:
            if kind not in SAFE_KINDS:
                self._trials.check(kind, text)
            matcher, first = compile_form(self._tokenizer(), kind, text, frame)
        finally:
            with self._lock:
                self._seconds.observe(time.perf_counter() - started)
        return _Compiled(matcher, np.frombuffer(first, dtype=np.uint32))

    def _forget(self, key: _Key) -> None:
        """Have `key` compiled afresh when it is asked for again."""
        with self._lock:
            self._held.pop(key, None)
            self._fresh.discard(key)
            if self._kept.pop(key, None) is not None:
                self._num_characters -= len(key[1])


def _refusal(asked: StructuredOutputs, error: FormError | TimeoutError) -> RequestError:
    """What is told of a form that cannot be kept to, or takes too long to compile."""
    what = f"'{asked.asked_as}' ({asked.kind})"
    if isinstance(error, FormError):
        return RequestError(f"{what} cannot be kept to: {error}", param=asked.asked_as)
    return RequestError(
        f"{what} takes more than {COMPILE_SECONDS:g} seconds to compile; make it simpler",
        param=asked.asked_as,
    )
