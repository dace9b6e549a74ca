"""Follows one request from its first token to its final event: sampling, events, its end."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gossamer.errors import GossamerError, RequestError, ServingError
from gossamer.serving.core.adapter import not_finite
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
from gossamer.serving.engine.text_stream import TextStream
from gossamer.serving.runner.sampling.sampler import SampledToken, SamplingState
from gossamer.serving.structured.grammars import Grammars
from gossamer.serving.tokenization.bad_words import bad_words
from gossamer.serving.tokenization.vocabulary import Vocabulary, vocabulary_of

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
    grammars: Grammars

    def generation(
        self,
        sequence: Sequence,
        on_event: Callable[[Event], None],
        tell: Callable[[RequestOutput, Callable[[], None]], None],
    ) -> "Generation":
        """Make what follows the tokens of `sequence`; `tell` has a call made where events are.

        Raises `RequestError` for a form that the answer cannot be kept to.
        """
        request = sequence.request
        params = request.sampling
        ends = frozenset(params.stop_token_ids)
        asked, grammar = params.structured_outputs, None
        if asked is not None:
            grammar = self.grammars.matcher(asked, ignores_ends=params.ignore_eos)
        # A grammar allows them only where the text may end, and forbids those that are ignored.
        if not params.ignore_eos or grammar is not None:
            ends |= self.eos_token_ids
        return Generation(
            sequence=sequence,
            sampling=SamplingState(
                params,
                tuple(ends | self.eos_token_ids),
                request.prompt_token_ids,
                bad_words(self.tokenizer, params.bad_words),
                grammar,
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
        is.

        Raises `RequestError` if the answer cannot be kept to its form any further.
        """
        sequence, output, grammar = self.sequence, self.output, self.sampling.grammar
        params = sequence.request.sampling
        if sequence.scores is not None and not self._prompt_is_told:
            self._prompt_is_told = True
            self.tell(output, partial(output.tell_prompt, sequence.scores))
        if not sequence.max_new_tokens:
            return "length"
        is_end = choice.token_id in self.end_token_ids
        is_text = params.include_stop or not is_end
        reason: FinishReason | None = None
        is_complete = grammar is not None and grammar.take(choice.token_id)
        if is_end or is_complete:
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

    def nothing_to_choose(self) -> GossamerError:
        """The error of a step that has left this sequence no token to choose."""
        asked = self.sequence.request.sampling.structured_outputs
        if asked is None or not self.sampling.is_stuck:
            return not_finite(self.sequence.adapter)
        return RequestError(
            f"'{asked.asked_as}' leaves no token that other fields do not forbid; "
            "look at 'bad_words' and 'logit_bias'",
            param=asked.asked_as,
        )

    def finish(self, reason: FinishReason) -> None:
        """Have the final event told of a request that ran or was cancelled."""
        self.tell(self.output, partial(self.output.finish, reason))

    def fail(self, error: GossamerError) -> None:
        """Have the final event told of a request that cannot go on."""
        self.tell(self.output, partial(self.output.fail, error))
