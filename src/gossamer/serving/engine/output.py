"""Follows one request from its first token to its final event: sampling, text, stop texts."""

import codecs
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from gossamer.errors import GossamerError, ServingError
from gossamer.serving.core.messages import (
    Event,
    Failed,
    Finished,
    FinishReason,
    TokenLogprob,
    Tokens,
)
from gossamer.serving.core.prompt_scores import PromptScores
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.validation import EngineLimits
from gossamer.serving.engine.prompt_event import prompt_event
from gossamer.serving.runner.sampler import SampledToken, SamplingState
from gossamer.serving.tokenization.bad_words import bad_words
from gossamer.serving.tokenization.vocabulary import Vocabulary, vocabulary_of

# Where each byte is a token, more than four of them complete no character.
_PATIENCE = 5


class _Pieces(Protocol):
    """Text of tokens as soon as it is certain."""

    def push(self, token: int) -> str: ...

    def finish(self) -> str: ...


class TextStream:
    """Makes the text of one sequence; what may yet become part of a stop text is held back."""

    def __init__(
        self,
        tokenizer: Any,
        stops: tuple[str, ...],
        *,
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        kept_special_tokens: tuple[int, ...] = (),
    ) -> None:
        """`include_stop` and those of special tokens are as in `SamplingParams`."""
        self._stops = stops
        self._include_stop = include_stop
        special = frozenset(tokenizer.all_special_ids if skip_special_tokens else ())
        self._special = special.difference(kept_special_tokens)
        vocabulary = vocabulary_of(tokenizer)
        self._pieces: _Pieces = (
            _ByteText(vocabulary)
            if vocabulary.is_concatenated
            # What is skipped does not get there.
            else _WindowText(tokenizer, skip_special_tokens and not kept_special_tokens)
        )
        self._held = ""
        self.met_stop = False
        """Whether a stop text has ended the text."""

    def push(self, token: int, *, look_for_stops: bool = True) -> tuple[str, bool]:
        """Add a token; returns text that is now certain, and whether a stop text was met."""
        if token in self._special:
            return "", False
        piece = self._pieces.push(token)
        if not piece:
            return "", False
        self._held += piece
        return self._release(look_for_stops), self.met_stop

    def finish(self, *, look_for_stops: bool = True) -> str:
        """Return the rest, up to a stop text in it, once no more tokens come."""
        if self.met_stop:
            return ""
        self._held += self._pieces.finish()
        text = self._release(look_for_stops)
        if not self.met_stop:
            text, self._held = text + self._held, ""
        return text

    def _release(self, look_for_stops: bool) -> str:
        if look_for_stops:
            met = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
            if met:
                place, stop = min(met)
                end = place + len(stop) if self._include_stop else place
                text, self._held = self._held[:end], ""
                self.met_stop = True
                return text
        keep = self._undecided() if look_for_stops else 0
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _undecided(self) -> int:
        """Length of the longest tail of the held text with which a stop text begins."""
        longest = min(max((len(s) for s in self._stops), default=1) - 1, len(self._held))
        for length in range(longest, 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0


class _ByteText:
    """Text of vocabularies whose tokens are bytes: one may end a character and begin the next."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._vocabulary.bytes_of(token))

    def finish(self) -> str:
        return self._decoder.decode(b"", True)


class _WindowText:
    """Text of other vocabularies, where a token's text depends on those before it: decoding
    starts a few tokens back. Their tokens are whole characters, or a byte each."""

    def __init__(self, tokenizer: Any, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._tokens: list[int] = []
        self._start = 0
        self._shown = 0

    def push(self, token: int) -> str:
        self._tokens.append(token)
        before = self._decode(self._tokens[self._start : self._shown])
        now = self._decode(self._tokens[self._start :])
        pending = len(self._tokens) - self._shown
        if now.endswith("\ufffd") and pending <= _PATIENCE:
            # A character is incomplete.
            return ""
        if len(now) <= len(before):
            # The token shows nothing; many such must not make every decoding longer.
            if pending > _PATIENCE:
                del self._tokens[self._shown :]
            return ""
        self._start, self._shown = self._shown, len(self._tokens)
        return now[len(before) :]

    def finish(self) -> str:
        before = self._decode(self._tokens[self._start : self._shown])
        rest = self._decode(self._tokens[self._start :])[len(before) :]
        self._start = self._shown = len(self._tokens)
        return rest

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=self._skip_special_tokens)
        return text


log = logging.getLogger(__name__)


FAILED = "the server failed to compute this request; see its log"


class Receiver:
    """Passes events on, none after the final one. A receiver's fault is not the engine's."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._has_ended = False
        # A thread that was given up may come back while another tells the end.
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Tell `event`."""
        with self._lock:
            if self._has_ended:
                return
            self._has_ended = not isinstance(event, Tokens)
        try:
            self._on_event(event)
        except BaseException:
            log.exception("the receiver of an event has failed")


class RequestOutput:
    """Makes the events of one request; a method at a time, whichever thread calls it."""

    def __init__(
        self,
        sequence: Sequence,
        stream: TextStream,
        vocabulary: Vocabulary,
        emit: Callable[[Event], None],
    ) -> None:
        self.sequence = sequence
        self.emit = emit
        self._stream = stream
        self._vocabulary = vocabulary
        self._num_tokens = 0
        self._is_broken = False

    @property
    def met_stop(self) -> bool:
        """Return whether a stop text has ended the text."""
        return self._stream.met_stop

    def tokens(
        self,
        choice: SampledToken,
        *,
        is_text: bool = True,
        is_last: bool = False,
        look_for_stops: bool = True,
    ) -> Tokens:
        """Make the event of the next token, with the text that is certain by now.

        Args:
            choice: the token.
            is_text: whether it adds to the text; that which ends a text does not.
            is_last: whether no more tokens come, so that nothing is held back.
            look_for_stops: whether a stop text may end the text here.
        """
        stream, text = self._stream, ""
        if is_text:
            text, _ = stream.push(choice.token_id, look_for_stops=look_for_stops)
        if is_last and not stream.met_stop:
            text += stream.finish(look_for_stops=look_for_stops)
        self._num_tokens += 1
        return Tokens(
            request_id=self.sequence.request.request_id,
            token_ids=(choice.token_id,),
            text=text,
            logprobs=None if choice.logprob is None else (self._logprob(choice),),
        )

    def tell(self, choice: SampledToken, *, is_text: bool, is_last: bool) -> None:
        """Send what `tokens` makes, unless one before could not be made."""
        if not self._is_broken:
            self.emit(self.tokens(choice, is_text=is_text, is_last=is_last))

    def tell_prompt(self, scores: PromptScores) -> None:
        """Send the log-probabilities of the prompt."""
        self.emit(prompt_event(self.sequence.request, scores, self._vocabulary))

    def finish(self, reason: FinishReason) -> None:
        """Send the final event of a request that ran or was cancelled.

        Text is still held back if it is cut between two tokens, for want of memory.
        """
        if self._is_broken:
            self.fail(ServingError(FAILED))
            return
        request_id = self.sequence.request.request_id
        if reason == "length" and (rest := self._stream.finish()):
            self.emit(Tokens(request_id=request_id, token_ids=(), text=rest))
        self.emit(
            Finished(
                request_id=request_id,
                finish_reason=reason,
                prompt_tokens=self.sequence.num_prompt,
                completion_tokens=self._num_tokens,
                cached_tokens=self.sequence.num_cached,
            )
        )

    def fail(self, error: GossamerError) -> None:
        """Send the final event of a request that cannot go on."""
        self.emit(Failed(request_id=self.sequence.request.request_id, error=error))

    def give_up(self) -> None:
        """Tell no more tokens: one of them could not be told, so the request fails in the end."""
        self._is_broken = True

    def _logprob(self, choice: SampledToken) -> TokenLogprob:
        assert choice.logprob is not None
        return TokenLogprob(
            token_id=choice.token_id,
            text=self._vocabulary.text_of(choice.token_id),
            logprob=choice.logprob,
            top=tuple((t, self._vocabulary.text_of(t), value) for t, value in choice.top),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Holds what the engine knows of the model that it serves."""

    name: str
    tokenizer: Any
    special_tokens: str
    """Where their text stands for them (`ServeSettings.special_tokens`)."""
    eos_token_ids: frozenset[int]
    limits: EngineLimits

    def generation(
        self,
        sequence: Sequence,
        on_event: Callable[[Event], None],
        tell: Callable[[RequestOutput, Callable[[], None]], None],
    ) -> "Generation":
        """Make what follows the tokens of `sequence`; `tell` has a call made where events are."""
        request = sequence.request
        params = request.sampling
        ends = frozenset(params.stop_token_ids)
        if not params.ignore_eos:
            ends |= self.eos_token_ids
        return Generation(
            sequence=sequence,
            sampling=SamplingState(
                params,
                tuple(ends | self.eos_token_ids),
                request.prompt_token_ids,
                bad_words(self.tokenizer, params.bad_words),
            ),
            end_token_ids=ends,
            output=RequestOutput(
                sequence,
                TextStream(
                    self.tokenizer,
                    params.stop,
                    include_stop=params.include_stop,
                    skip_special_tokens=params.skip_special_tokens,
                    kept_special_tokens=params.kept_special_tokens,
                ),
                vocabulary_of(self.tokenizer),
                Receiver(on_event),
            ),
            tell=tell,
        )


@dataclass(eq=False, slots=True, kw_only=True)
class Generation:
    """Follows the tokens of a sequence on the engine's thread: what is drawn, and when it ends.

    Text and events are made where `tell` has calls made, in the order of these calls. But where a
    stop text may end a request its text is made at once, as no further token may be computed.
    """

    sequence: Sequence
    sampling: SamplingState
    end_token_ids: frozenset[int]
    """The tokens that end this request."""
    output: RequestOutput
    tell: Callable[[RequestOutput, Callable[[], None]], None]
    _prompt_is_told: bool = field(init=False, default=False)

    def accept(self, choice: SampledToken) -> FinishReason | None:
        """Have the next token told, which is in its place; returns why the request is done if it
        is."""
        sequence, output = self.sequence, self.output
        params = sequence.request.sampling
        if sequence.scores is not None and not self._prompt_is_told:
            self._prompt_is_told = True
            self.tell(output, partial(output.tell_prompt, sequence.scores))
        if not sequence.max_new_tokens:
            return "length"
        is_end = choice.token_id in self.end_token_ids
        is_text = params.include_stop or not is_end
        reason: FinishReason | None = None
        if is_end:
            reason = "stop"
        elif sequence.num_left <= 0:
            reason = "length"
        is_last = reason is not None
        if not params.stop:
            self.tell(output, partial(output.tell, choice, is_text=is_text, is_last=is_last))
            return reason
        is_early = sequence.num_generated < params.min_tokens
        event = output.tokens(choice, is_text=is_text, is_last=is_last, look_for_stops=not is_early)
        self.tell(output, partial(output.emit, event))
        return "stop" if output.met_stop else reason

    def finish(self, reason: FinishReason) -> None:
        """Have the final event told of a request that ran or was cancelled."""
        self.tell(self.output, partial(self.output.finish, reason))

    def fail(self, error: GossamerError) -> None:
        """Have the final event told of a request that cannot go on."""
        self.tell(self.output, partial(self.output.fail, error))
