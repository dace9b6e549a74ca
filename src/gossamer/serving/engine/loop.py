"""Runs the engine: one thread that schedules and computes, step after step.

Requests come in by messages, and tokens go to the detokenizer's thread, which tells events; the
engine's alone touches scheduler, memory and model.
"""

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from gossamer.errors import (
    EngineStoppedError,
    GossamerError,
    RankLostError,
    RequestError,
    ServingError,
)
from gossamer.serving.core.futures import guard
from gossamer.serving.core.mailbox import Mailbox
from gossamer.serving.core.messages import FinishReason
from gossamer.serving.core.prompt_scores import PromptScores
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.engine.adapter_control import AdapterControl
from gossamer.serving.engine.detokenizer import Detokenizer
from gossamer.serving.engine.open_requests import OpenRequests
from gossamer.serving.engine.output import FAILED, Generation, RequestOutput
from gossamer.serving.engine.stats import EngineFigures
from gossamer.serving.runner.in_flight import StepInFlight
from gossamer.serving.runner.model_runner import ModelRunner
from gossamer.serving.runner.sampling.sampler import SampledToken
from gossamer.serving.scheduler.rate_limiter import RateLimiter
from gossamer.serving.scheduler.scheduler import Scheduler
from gossamer.serving.scheduler.step import ScheduledChunk

log = logging.getLogger(__name__)

_CUT_OFF = "the engine hangs; the answer was cut off"


class EngineLoop:
    """Moves requests on, from the thread's first step to the final event of each."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        rate_limiter: RateLimiter,
        mailbox: Mailbox,
        control: AdapterControl,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._rate_limiter = rate_limiter
        self._mailbox = mailbox
        self._control = control
        self.requests = OpenRequests()
        self.figures = EngineFigures()
        self.detokenizer = Detokenizer(mailbox.post, self._untold)
        self._in_flight: StepInFlight | None = None
        """The step that was launched last, if it was not taken in."""
        self._last_end = 0.0
        """When a step was taken in last."""
        self._is_broken = False
        self.taking_in = threading.Lock()
        """Held while a request is taken in, so that none slips in behind a cancel or the end."""
        self._thread = threading.Thread(target=self._run_all, name="gossamer-engine", daemon=True)

    # From any thread.

    def start(self) -> None:
        """Start both threads; called once."""
        self.detokenizer.start()
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Return whether the engine's thread runs."""
        return self._thread.is_alive()

    def is_current_thread(self) -> bool:
        """Return whether the engine's thread asks this."""
        return threading.current_thread() is self._thread

    def refuse_requests(self) -> None:
        """Let no more requests in."""
        with self.taking_in:
            self._rate_limiter.close()

    def end(self, seconds: float) -> None:
        """Wait for both threads, `seconds` at most for each; what hangs is ended without it."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            log.error("the engine's thread hangs; its requests are ended without it")
            self._end_without_thread()
        if not self.detokenizer.join(seconds):
            log.error("a receiver of events hangs; what was not told is ended without it")
            self.detokenizer.give_up(EngineStoppedError(_CUT_OFF))

    def join(self, seconds: float) -> bool:
        """Wait until both threads have ended, `seconds` at most for each; whether they have."""
        self._thread.join(seconds)
        return not self._thread.is_alive() and self.detokenizer.join(seconds)

    # On the engine's thread.

    def _run_all(self) -> None:
        failure: EngineStoppedError | None = None
        try:
            while self._mailbox.wait(busy=self.step()):
                if self._is_broken:
                    raise RuntimeError("the scheduler is in disorder")
        except RankLostError as error:
            failure = EngineStoppedError(str(error))
        except BaseException:
            log.exception("the engine has failed")
            failure = EngineStoppedError("the engine has failed; see the server's log")
        finally:
            self._end_all(failure)
            self.detokenizer.end()

    def step(self) -> bool:
        """Do what can be done now; False if only a message can bring more to do."""
        try:
            self._drain()
            return self._turn() or self._is_broken
        except RankLostError:
            raise
        except Exception as error:
            log.exception("a step of the engine has failed")
            self._abandon(error)
            return self._is_broken
        finally:
            self.detokenizer.flush()

    def _turn(self) -> bool:
        """Launch a step and take one in: this very one, or where steps overlap the one before.

        In between, sequences of the step in flight count as if they had their next tokens.
        """
        before = self._in_flight
        is_behind = self.detokenizer.is_behind
        if before is not None and (is_behind or before.must_be_read):
            self._take_in(before)
            before = self._in_flight = None
        if is_behind:
            return False
        if before is not None:
            self._scheduler.advance(before.chunks)
        chunks = self._schedule()
        self._in_flight, error = self._launch(chunks, before)
        if before is not None:
            self._postprocess(before)
        if error is not None:
            # The requests of this step end; the others go on.
            self._fail(self._scheduler.failed(chunks, error))
        elif self._in_flight is not None and not self._runner.overlaps:
            self._take_in(self._in_flight)
            self._in_flight = None
        return bool(chunks) or before is not None or self._scheduler.wants_step

    def _drain(self) -> None:
        """Take over what others have done meanwhile: messages, reading, copying, merging."""
        for message in self._mailbox.take():
            guard(message)
        self._control.advance()
        self._runner.follow()

    def _schedule(self) -> list[ScheduledChunk]:
        """End those who cannot go on, and choose what to compute next."""
        for sequence, error in self._scheduler.pop_refused():
            if error is not None:
                self._end(sequence, error)
            else:
                self._conclude(sequence, "length")
        chunks = self._scheduler.plan()
        if not chunks and not self.requests.seen():
            self._scheduler.audit()
        return chunks

    def _launch(
        self, chunks: list[ScheduledChunk], before: StepInFlight | None
    ) -> tuple[StepInFlight | None, Exception | None]:
        """Begin to compute `chunks`, if any; the error if that failed."""
        if not chunks:
            return None, None
        try:
            return self._runner.launch(chunks, self.requests.sampling, before), None
        except RankLostError:
            raise  # it ends the engine: the ranks no longer agree
        except Exception as error:
            # No memory, say.
            log.exception("a step has failed")
            return None, error

    def _take_in(self, step: StepInFlight) -> None:
        """Take in a step behind which no other was launched."""
        self._scheduler.advance(step.chunks)
        self._postprocess(step)

    def _postprocess(self, step: StepInFlight) -> None:
        """Take in what was computed, and tell the new tokens of those who have not ended yet."""
        try:
            choices, moments = step.result()
            scored = step.prompt_scores()
        except Exception as error:
            log.exception("a step has failed")
            self._fail(self._scheduler.failed(step.chunks, error))
            return
        # What was done while the step before was computed is no time of this one's.
        begun, built, computed, end = (max(moment, self._last_end) for moment in moments)
        self._last_end = end
        taken: list[tuple[Generation, SampledToken]] = []
        bad = self._take_scores(scored)
        for sequence, choice in choices:
            if (generation := self.requests.generation(sequence)) is None:
                continue  # It has ended meanwhile.
            if choice is None or sequence in bad:
                bad.append(sequence)
            else:
                taken.append((generation, choice))
        # Where a prompt is only scored, what would follow it is not said.
        said = [each.sequence for each, _ in taken if each.sequence.max_new_tokens]
        self.figures.observe_step(step.chunks, (begun, built, computed, end), len(said))
        self._scheduler.postprocess(step.chunks, end - begun)
        for sequence in bad:
            generation = self.requests.generation(sequence)
            if generation is not None:
                self._fail([sequence], generation.nothing_to_choose())
        uncounted = self._spend(Counter(sequence.tenant for sequence in said))
        for generation, choice in taken:
            if generation.sequence.tenant in uncounted:
                self._fail([generation.sequence])
            else:
                self._accept(generation, choice)

    def _take_scores(self, scored: list[tuple[Sequence, PromptScores]]) -> list[Sequence]:
        """Keep the scores of prompts; returns the sequences for which some are no numbers."""
        bad = []
        for sequence, scores in scored:
            assert sequence.scores is not None
            if scores.are_numbers:
                sequence.scores.extend(scores)
            else:
                bad.append(sequence)
        return bad

    def _spend(self, tokens: Mapping[str, int]) -> set[str]:
        """Count the tokens of each tenant, and return the tenants whose tokens could not be."""
        uncounted = set()
        for tenant, count in tokens.items():
            try:
                self._rate_limiter.spend(tenant, count)
            except Exception:
                log.exception("tokens could not be counted")
                uncounted.add(tenant)
        return uncounted

    def _accept(self, generation: Generation, choice: SampledToken) -> None:
        sequence = generation.sequence
        try:
            self._scheduler.record_token(sequence, choice.token_id)
            reason = generation.accept(choice)
        except RequestError as error:
            self._fail([sequence], error)
            return
        except Exception:
            log.exception("a token could not be taken")
            self._fail([sequence])
            return
        if reason is not None:
            self._finish(sequence, reason)

    def enqueue(self, sequence: Sequence) -> None:
        """Take in a request that has arrived, unless it has ended meanwhile."""
        if not self.requests.mark_seen(sequence):
            return
        try:
            self._scheduler.add(sequence)
        except Exception:
            log.exception("a request could not be queued")
            self._fail([sequence])

    def cancel(self, sequence: Sequence) -> None:
        """End a request; it may have ended since that was asked for."""
        if self.requests.is_seen(sequence):
            self._finish(sequence, "cancelled")

    def _untold(self, output: RequestOutput) -> None:
        """On the detokenizer's thread: a token of `output` could not be told."""
        with suppress(EngineStoppedError):  # it is ended with all others just now
            self._mailbox.post(lambda: self._fail_open(output.sequence))

    def _fail_open(self, sequence: Sequence) -> None:
        if self.requests.is_seen(sequence):
            self._fail([sequence])

    # The ends of requests.

    def _abandon(self, error: Exception) -> None:
        """End all requests that were seen, and what is in flight with them."""
        step, self._in_flight = self._in_flight, None
        self._fail(self.requests.seen())
        if step is not None:
            self._scheduler.failed(step.chunks, error)

    def _end_all(self, failure: EngineStoppedError | None) -> None:
        """Send the last events: no request that came in stays without an answer."""
        self.refuse_requests()
        for message in self._mailbox.close():
            guard(message)
        guard(self._control.end_calls)
        for sequence in (*self.requests.seen(), *self.requests.arriving()):
            if failure is None:
                guard(partial(self._finish, sequence, "cancelled"))
            # What the scheduler holds may be inconsistent.
            self._end(sequence, failure or EngineStoppedError(FAILED))

    def _end_without_thread(self) -> None:
        """On another thread: the engine's own hangs, and may go on later."""
        self._control.end_calls()
        for sequence in self.requests.sequences():
            self._end(sequence, EngineStoppedError(_CUT_OFF))
        self.detokenizer.end()

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._scheduler.remove(sequence)
        self._conclude(sequence, reason)

    def _conclude(self, sequence: Sequence, reason: FinishReason) -> None:
        if (generation := self._forget(sequence, reason)) is not None:
            generation.finish(reason)

    def _fail(self, sequences: list[Sequence], error: GossamerError | None = None) -> None:
        """End `sequences`. If the scheduler cannot give one up, the engine ends after this step."""
        for sequence in sequences:
            try:
                self._scheduler.remove(sequence)
            except Exception:
                log.exception("the scheduler cannot give up a request")
                self._is_broken = True
            self._end(sequence, error or ServingError(FAILED))

    def _end(self, sequence: Sequence, error: GossamerError) -> None:
        if (generation := self._forget(sequence, "failed")) is not None:
            generation.fail(error)

    def _forget(self, sequence: Sequence, reason: str) -> Generation | None:
        """Forget `sequence`; returns what tells its end, if it was not told. From any thread."""
        generation = self.requests.pop(sequence)
        if generation is not None:
            self.figures.observe_end(reason)
            guard(lambda: self._rate_limiter.leave(sequence.tenant))
        return generation
