"""One request from the first token to the final event: sampling, text, when to stop."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from gossamer.errors import GossamerError
from gossamer.serving.messages import Event, Failed, Finished, FinishReason, TokenLogprob, Tokens
from gossamer.serving.sampler import Choice, SamplingState
from gossamer.serving.sequence import Sequence
from gossamer.serving.text import TextStream
from gossamer.serving.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class Receiver:
    """Passes events on, none after the final one. A receiver's fault is not the engine's."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._has_ended = False

    def __call__(self, event: Event) -> None:
        """Tell `event`."""
        if self._has_ended:
            return
        self._has_ended = not isinstance(event, Tokens)
        try:
            self._on_event(event)
        except BaseException:
            log.exception("the receiver of an event has failed")


@dataclass(eq=False, slots=True, kw_only=True)
class Generation:
    """A sequence together with what turns its tokens into events."""

    sequence: Sequence
    sampling: SamplingState
    stream: TextStream
    eos_token_ids: frozenset[int]
    vocabulary: Vocabulary
    emit: Callable[[Event], None]

    def accept(self, choice: Choice) -> FinishReason | None:
        """Take the next token: tell its text, and why the request is done if it is."""
        sequence = self.sequence
        params = sequence.request.sampling
        sequence.token_ids.append(choice.token_id)
        early = sequence.num_generated < params.min_tokens
        ended = choice.token_id in self.eos_token_ids and not params.ignore_eos
        text, met_stop = "", False
        if not ended:
            text, met_stop = self.stream.push(choice.token_id, look_for_stops=not early)
        reason: FinishReason | None = None
        if ended or met_stop:
            reason = "stop"
        elif sequence.num_left <= 0:
            reason = "length"
        if reason is not None and not met_stop:
            text += self.stream.finish(look_for_stops=not early)
            if self.stream.met_stop:
                reason = "stop"
        self.emit(
            Tokens(
                request_id=sequence.request.request_id,
                token_ids=(choice.token_id,),
                text=text,
                logprobs=None if choice.logprob is None else (self._logprob(choice),),
            )
        )
        return reason

    def finish(self, reason: FinishReason) -> None:
        """Send the final event of a request that ran or was cancelled.

        Text is still held back if it is cut between two tokens, for want of memory.
        """
        if reason == "length" and (rest := self.stream.finish()):
            request_id = self.sequence.request.request_id
            self.emit(Tokens(request_id=request_id, token_ids=(), text=rest))
        self.emit(
            Finished(
                request_id=self.sequence.request.request_id,
                finish_reason=reason,
                prompt_tokens=self.sequence.num_prompt,
                completion_tokens=self.sequence.num_generated,
                cached_tokens=self.sequence.num_cached,
            )
        )

    def fail(self, error: GossamerError) -> None:
        """Send the final event of a request that cannot go on."""
        self.emit(Failed(request_id=self.sequence.request.request_id, error=error))

    def _logprob(self, choice: Choice) -> TokenLogprob:
        assert choice.logprob is not None
        return TokenLogprob(
            token_id=choice.token_id,
            text=self.vocabulary.text_of(choice.token_id),
            logprob=choice.logprob,
            top=tuple((t, self.vocabulary.text_of(t), value) for t, value in choice.top),
        )
