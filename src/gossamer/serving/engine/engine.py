"""Runs the engine: one thread that schedules, computes and answers, step after step.

Requests come in and events go out by messages; the thread alone touches scheduler, memory and
model.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from gossamer.errors import (
    EngineStoppedError,
    GossamerError,
    RequestError,
    ServingError,
)
from gossamer.serving.core.adapter import AnyAdapter, not_finite
from gossamer.serving.core.futures import call_elsewhere, guard
from gossamer.serving.core.mailbox import Mailbox
from gossamer.serving.core.messages import Event, FinishReason, Request
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.stats import AdapterStatus, EngineStats
from gossamer.serving.core.validation import check_request
from gossamer.serving.engine.adapter_control import AdapterControl
from gossamer.serving.engine.open_requests import OpenRequests
from gossamer.serving.engine.output import Generation, ModelInfo
from gossamer.serving.engine.stats import EngineFigures
from gossamer.serving.runner.model_runner import ModelRunner
from gossamer.serving.runner.sampler import SampledToken, sample
from gossamer.serving.scheduler.rate_limiter import RateLimiter
from gossamer.serving.scheduler.scheduler import Scheduler
from gossamer.serving.scheduler.step import ScheduledChunk

log = logging.getLogger(__name__)

STOP_SECONDS = 30.0
"""So long `shutdown` waits for the step that is being computed; longer is a hang."""

EXIT_SECONDS = 5.0
"""Seconds for the thread to end where the interpreter ends and `shutdown` was not called."""

_FAILED = "the server failed to compute this request; see its log"


@dataclass(frozen=True, slots=True)
class _Computed:
    """The next tokens of a step, and when it was begun, built, computed and sampled."""

    choices: list[tuple[Sequence, SampledToken | None]]
    moments: tuple[float, float, float, float]


class Engine:
    """Implements `EngineInterface`. Build one with `build.build_engine`, which also starts it."""

    def __init__(
        self,
        model: ModelInfo,
        runner: ModelRunner,
        scheduler: Scheduler,
        rate_limiter: RateLimiter,
        mailbox: Mailbox,
        control: AdapterControl,
    ) -> None:
        self.model = model
        self.runner = runner
        self.scheduler = scheduler
        self.rate_limiter = rate_limiter
        self.mailbox = mailbox
        self.control = control
        self._requests = OpenRequests()
        self._figures = EngineFigures()
        self._is_broken = False
        # Held while a request is taken in, so that none slips in behind a cancel or the end.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="gossamer-engine", daemon=True)

    # From any thread.

    def start(self) -> None:
        """Start the engine's thread; called once."""
        self._thread.start()
        atexit.register(self._stop_at_exit)

    @property
    def model_name(self) -> str:
        """See `EngineInterface.model_name`."""
        return self.model.name

    @property
    def tokenizer(self) -> Any:
        """See `EngineInterface.tokenizer`."""
        return self.model.tokenizer

    @property
    def special_tokens(self) -> str:
        """See `EngineInterface.special_tokens`."""
        return self.model.special_tokens

    @property
    def max_context(self) -> int:
        """See `EngineInterface.max_context`."""
        return self.model.limits.max_context

    def look_up(self, name: str) -> "Future[AnyAdapter]":
        """See `EngineInterface.look_up`."""
        return self.control.look_up(name)

    def check_entry(self, tenant: str, *, own: int, others: int) -> None:
        """See `EngineInterface.check_entry`."""
        with self._lock:
            self.rate_limiter.check(tenant, own=own, num_waiting=self._num_waiting + others)

    def submit(
        self,
        request: Request,
        on_event: Callable[[Event], None],
        adapter: AnyAdapter | None = None,
    ) -> None:
        """See `EngineInterface.submit`."""
        most = check_request(request, self.model.limits, self.scheduler.num_blocks)
        if adapter is None and request.adapter is not None:
            adapter = self.control.look_up_here(request.adapter)
        sequence = Sequence(
            request=request,
            adapter=adapter,
            max_new_tokens=most,
            token_ids=list(request.prompt_token_ids),
            arrived=time.monotonic(),
        )
        generation = self.model.generation(sequence, on_event)
        with self._lock:
            if request.request_id in self._requests:
                raise RequestError(f"request id '{request.request_id}' is in use")
            self.rate_limiter.admit(request, self._num_waiting)
            self._requests.add(generation)
            self.mailbox.post(lambda: self._enqueue(sequence))
            if adapter is not None and self._num_waiting <= self.scheduler.num_read_ahead:
                self.control.prefetch_read(adapter)

    def cancel(self, request_id: str) -> None:
        """See `EngineInterface.cancel`."""
        with self._lock:
            sequence = self._requests.find(request_id)
            if sequence is not None:
                with suppress(EngineStoppedError):  # it is ended with all others just now
                    self.mailbox.post(lambda: self._cancel(sequence))

    def adapters(self) -> list[AdapterStatus]:
        """See `EngineInterface.adapters`."""
        return self.control.statuses()

    def adapter(self, name: str) -> AdapterStatus:
        """See `EngineInterface.adapter`."""
        return self.control.status(name)

    def load_adapter(
        self, name: str, folder: str | None = None, *, replace: bool = False, pin: bool = False
    ) -> "Future[AdapterStatus]":
        """See `EngineInterface.load_adapter`."""
        self._require_open()
        return self.control.load(name, folder, replace=replace, pin=pin)

    def unload_adapter(self, name: str) -> "Future[None]":
        """See `EngineInterface.unload_adapter`."""
        self._require_open()
        return self.control.unload(name)

    def pin_adapter(self, name: str, *, pinned: bool) -> "Future[AdapterStatus]":
        """See `EngineInterface.pin_adapter`."""
        self._require_open()
        return self.control.pin(name, pinned=pinned)

    def healthy(self) -> bool:
        """See `EngineInterface.healthy`."""
        return self.rate_limiter.is_open and self._thread.is_alive()

    def stats(self) -> EngineStats:
        """See `EngineInterface.stats`."""
        return self._figures.stats(
            self.scheduler,
            self.control.stats(),
            self.runner.stats(),
            self._requests.sequences(),
            self.model.limits.block_bytes,
        )

    def audit(self) -> None:
        """Have the engine's thread recount blocks, rows and users; raises `AssertionError`.

        Counts at once where the thread does not run, or calls this itself.
        """
        if not self._thread.is_alive() or threading.current_thread() is self._thread:
            self.scheduler.audit()
            return
        call_elsewhere(self.mailbox.post, self.scheduler.audit)

    def shutdown(self, *, drain_seconds: float = 0.0) -> None:
        """See `EngineInterface.shutdown`."""
        self._stop(drain_seconds, STOP_SECONDS)

    def join(self, seconds: float) -> bool:
        """Wait until the engine's thread has ended, `seconds` at most; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _stop(self, drain_seconds: float, stop_seconds: float) -> None:
        self._refuse_requests()
        deadline = time.monotonic() + drain_seconds
        while self._requests and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.mailbox.stop()
        if threading.current_thread() is self._thread:
            return  # Called by a receiver: the thread ends when that has returned.
        if not self.join(stop_seconds):
            log.error("the engine's thread hangs; its requests are ended without it")
            self._end_without_thread()
        self.control.close()
        self.runner.close()
        atexit.unregister(self._stop_at_exit)

    def _stop_at_exit(self) -> None:
        # A thread that computes while the interpreter is taken down may crash it.
        self._stop(0.0, EXIT_SECONDS)

    @property
    def _num_waiting(self) -> int:
        return max(0, len(self._requests) - len(self.scheduler.running))

    def _require_open(self) -> None:
        if not self.healthy():
            raise EngineStoppedError("the server is shutting down")

    def _refuse_requests(self) -> None:
        with self._lock:
            self.rate_limiter.close()

    # On the engine's thread.

    def _loop(self) -> None:
        failure: EngineStoppedError | None = None
        try:
            while self.mailbox.wait(busy=self.step()):
                if self._is_broken:
                    raise RuntimeError("the scheduler is in disorder")
        except BaseException:
            log.exception("the engine has failed")
            failure = EngineStoppedError("the engine has failed; see the server's log")
        finally:
            self._end_all(failure)

    def step(self) -> bool:
        """Do what can be done now; False if only a message can bring more to do."""
        try:
            self._drain()
            chunks = self._schedule()
            if chunks and (computed := self._run(chunks)) is not None:
                self._postprocess(chunks, computed)
            return bool(chunks) or self.scheduler.wants_step or self._is_broken
        except Exception:
            log.exception("a step of the engine has failed")
            self._fail(self._requests.seen())
            return self._is_broken

    def _drain(self) -> None:
        """Take over what others have done meanwhile: messages, reading, copying, merging."""
        for message in self.mailbox.take():
            guard(message)
        self.control.advance()
        self.runner.follow()

    def _schedule(self) -> list[ScheduledChunk]:
        """End those who cannot go on, and choose what to compute next."""
        for sequence, error in self.scheduler.pop_refused():
            if error is not None:
                self._end(sequence, error)
            else:
                self._conclude(sequence, "length")
        chunks = self.scheduler.plan()
        if not chunks and not self._requests.seen():
            self.scheduler.audit()
        return chunks

    def _run(self, chunks: list[ScheduledChunk]) -> _Computed | None:
        """Compute `chunks` and choose the next tokens; None if that failed."""
        try:
            step = self.runner.step(chunks)
            states = [self._requests.generation(s).sampling for s in step.sequences]
            choices = sample(step.logits, states)
        except Exception as error:
            # No memory, say. The requests of this step end; the others go on.
            log.exception("a step has failed")
            self._fail(self.scheduler.failed(chunks, error))
            return None
        pairs = list(zip(step.sequences, choices, strict=True))
        return _Computed(pairs, (*step.moments, time.monotonic()))

    def _postprocess(self, chunks: list[ScheduledChunk], computed: _Computed) -> None:
        """Take in what was computed, and tell the new tokens."""
        num_chosen = sum(choice is not None for _, choice in computed.choices)
        self._figures.observe_step(chunks, computed.moments, num_chosen)
        self.scheduler.postprocess(chunks, computed.moments[-1] - computed.moments[0])
        for sequence, choice in computed.choices:
            self._accept(sequence, choice)

    def _accept(self, sequence: Sequence, choice: SampledToken | None) -> None:
        if choice is None:
            self._fail([sequence], not_finite(sequence.adapter))
            return
        try:
            self.scheduler.record_token(sequence)
            self.rate_limiter.spend(sequence.tenant, 1)
            reason = self._requests.generation(sequence).accept(choice)
        except Exception:
            log.exception("a token could not be taken")
            self._fail([sequence])
            return
        if reason is not None:
            self._finish(sequence, reason)

    def _enqueue(self, sequence: Sequence) -> None:
        if not self._requests.mark_seen(sequence):
            return
        try:
            self.scheduler.add(sequence)
        except Exception:
            log.exception("a request could not be queued")
            self._fail([sequence])

    def _cancel(self, sequence: Sequence) -> None:
        # It may have ended since it was asked for.
        if self._requests.is_seen(sequence):
            self._finish(sequence, "cancelled")

    # The ends of requests.

    def _end_all(self, failure: EngineStoppedError | None) -> None:
        """Send the last events: no request that came in stays without an answer."""
        self._refuse_requests()
        for message in self.mailbox.close():
            guard(message)
        guard(self.control.end_calls)
        for sequence in (*self._requests.seen(), *self._requests.arriving()):
            if failure is None:
                guard(partial(self._finish, sequence, "cancelled"))
            # What the scheduler holds may be inconsistent.
            self._end(sequence, failure or EngineStoppedError(_FAILED))

    def _end_without_thread(self) -> None:
        """On another thread: the engine's own hangs, and may go on later."""
        self.control.end_calls()
        for sequence in self._requests.sequences():
            self._end(sequence, EngineStoppedError("the engine hangs; the answer was cut off"))

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self.scheduler.remove(sequence)
        self._conclude(sequence, reason)

    def _conclude(self, sequence: Sequence, reason: FinishReason) -> None:
        if (generation := self._forget(sequence, reason)) is not None:
            generation.finish(reason)

    def _fail(self, sequences: list[Sequence], error: GossamerError | None = None) -> None:
        """End `sequences`. If the scheduler cannot give one up, the engine ends after this step."""
        for sequence in sequences:
            try:
                self.scheduler.remove(sequence)
            except Exception:
                log.exception("the scheduler cannot give up a request")
                self._is_broken = True
            self._end(sequence, error or ServingError(_FAILED))

    def _end(self, sequence: Sequence, error: GossamerError) -> None:
        if (generation := self._forget(sequence, "failed")) is not None:
            generation.fail(error)

    def _forget(self, sequence: Sequence, reason: str) -> Generation | None:
        """Forget `sequence`; returns what tells its end, if it was not told. From any thread."""
        generation = self._requests.pop(sequence)
        if generation is not None:
            self._figures.observe_end(reason)
            guard(lambda: self.rate_limiter.leave(sequence.tenant))
        return generation
