"""Follows one sequence through a grammar: its mask is computed beside the step that needs it."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from gossamer.errors import RequestError, cut

log = logging.getLogger(__name__)

STUCK_SECONDS = 60.0
"""A mask takes microseconds, and is bounded to hundredths of a second; longer is a hang."""


FREE_SECONDS = 1.0
SECONDS_PER_TOKEN = 0.01
"""Processor time that a sequence may take of its grammar: so much, and so much for each token. A
thousandth of it is usual; beyond it the sequence ends, since all of its batch wait for it."""


class MaskThread:
    """One thread that computes masks, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[GrammarMatcher | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def compute(self, matcher: "GrammarMatcher") -> None:
        """Have the mask of `matcher` computed."""
        if self._thread is None:
            self._start()
        self._jobs.put(matcher)

    def close(self) -> None:
        """End the thread behind what was asked for."""
        with self._lock:
            if self._thread is not None:
                self._jobs.put(None)
                self._thread = None

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="gossamer-masks", daemon=True
                )
                self._thread.start()

    def _work(self) -> None:
        while (matcher := self._jobs.get()) is not None:
            matcher.compute()
            # It is not to live until the next one comes.
            del matcher


class GrammarMatcher:
    """Implements `TokenGrammar` by llguidance."""

    def __init__(
        self,
        matcher: LLMatcher,
        thread: MaskThread,
        *,
        first: NDArray[np.uint32],
        ends: Sequence[int],
        ignores_ends: bool,
        field: str,
        broken: Callable[[], None],
    ) -> None:
        """Begin at the first token.

        Args:
            matcher: stands at the begin of the grammar, and is this object's own.
            thread: computes the masks.
            first: the bits of the first token's mask, uint32 [words].
            ends: the end-of-text tokens.
            ignores_ends: whether the sequence goes on at its form's end where it can
                (`SamplingParams.ignore_eos`).
            field: the name of the form in messages.
            broken: called when the grammar could not be followed any further.
        """
        self._matcher = matcher
        self._thread = thread
        self._ends = list(ends)
        self._ignores_ends = ignores_ends
        self._field = field
        self._broken = broken
        self._bits = first.copy()
        self._is_ready = threading.Event()
        self._must_end = False
        self._seconds_left = FREE_SECONDS
        self._judge_ends()
        self._is_ready.set()

    @property
    def must_end(self) -> bool:
        """See `TokenGrammar.must_end`."""
        return self._must_end

    def mask(self) -> NDArray[np.uint8]:
        """See `TokenGrammar.mask`."""
        if not self._is_ready.wait(STUCK_SECONDS):
            raise TimeoutError("the mask of a grammar is not computed")
        return self._bits.view(np.uint8)

    def take(self, token: int) -> bool:
        """See `TokenGrammar.take`."""
        # What is computed at this moment belongs to the token before.
        self.mask()
        begun = time.thread_time()
        if self._seconds_left < 0:
            self._refuse("its grammar takes too long to follow; make it less ambiguous")
        if not self._matcher.consume_token(token):
            self._refuse(_plain(self._matcher.get_error()))
        self._seconds_left += SECONDS_PER_TOKEN - (time.thread_time() - begun)
        if self._matcher.is_stopped():
            return True
        self._is_ready.clear()
        self._thread.compute(self)
        return False

    def _refuse(self, reason: str) -> NoReturn:
        self._broken()
        message = f"the answer cannot be kept to '{self._field}' any further: {reason}"
        raise RequestError(message, param=self._field)

    def compute(self) -> None:
        """Compute the mask, on the thread for it."""
        begun = time.thread_time()
        try:
            self._compute()
        except Exception:
            # The next token is then taken from all, and refused with the reason.
            log.exception("a mask could not be computed")
            self._bits.fill(0xFFFFFFFF)
        finally:
            self._seconds_left -= time.thread_time() - begun
            self._is_ready.set()

    def _compute(self) -> None:
        bits = self._bits
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        if self._matcher.is_error():
            bits.fill(0xFFFFFFFF)
        else:
            self._judge_ends()

    def _judge_ends(self) -> None:
        """Note whether the text must end here, and forbid that if it need not and is not to."""
        bits = self._bits
        words, shifts = [end // 32 for end in self._ends], [end % 32 for end in self._ends]
        self._must_end = False
        if not any(int(bits[word]) >> shift & 1 for word, shift in zip(words, shifts, strict=True)):
            return
        kept = bits.copy()
        for word, shift in zip(words, shifts, strict=True):
            kept[word] &= np.uint32(~(1 << shift) & 0xFFFFFFFF)
        self._must_end = not kept.any()
        if self._ignores_ends and not self._must_end:
            bits[:] = kept


def _plain(reason: str) -> str:
    """The library's reason without its own state."""
    return cut(reason.split("\n<")[0] or "no token may follow", 200)
