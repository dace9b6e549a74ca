"""The engine: one thread that schedules, runs and answers, step after step.

Requests come in and events go out by messages; the thread alone touches scheduler, pool and model.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from gossamer.errors import (
    EngineStoppedError,
    GossamerError,
    RequestError,
    ServingError,
)
from gossamer.serving.core.adapter import AnyAdapter, not_finite
from gossamer.serving.core.futures import guard
from gossamer.serving.core.mailbox import Mailbox
from gossamer.serving.core.messages import Event, FinishReason, Request
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.stats import AdapterStatus, EngineStats, StepFigures
from gossamer.serving.core.validation import EngineLimits, check_request
from gossamer.serving.engine.adapter_control import AdapterControl
from gossamer.serving.engine.output import Generation, Receiver, TextStream
from gossamer.serving.engine.stats import Counts, recount, stats_of
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.runner.batch import BatchBuilder
from gossamer.serving.runner.model_runner import Runner
from gossamer.serving.runner.sampler import SampledToken, SamplingState, sample
from gossamer.serving.scheduler.hot_merge import HotMerger
from gossamer.serving.scheduler.rate_limiter import RateLimiter
from gossamer.serving.scheduler.scheduler import ScheduledChunk, Scheduler, adapters_of
from gossamer.serving.store.looks import AdapterLooks
from gossamer.serving.store.manager import AdapterManager
from gossamer.serving.tokenization.vocabulary import vocabulary_of

log = logging.getLogger(__name__)

STOP_SECONDS = 30.0
"""So long `shutdown` waits for the step that is being computed; longer is a hang."""

EXIT_SECONDS = 5.0
"""The same where the interpreter ends and nobody has called `shutdown`."""

_FAILED = "the server failed to compute this request; see its log"


class Engine:
    """Implements `EngineInterface`. Build one with `build.build_engine`."""

    def __init__(
        self,
        *,
        model_name: str,
        tokenizer: Any,
        special_tokens: str,
        eos_token_ids: frozenset[int],
        runner: Runner,
        builder: BatchBuilder,
        pool: BlockPool,
        adapters: AdapterManager,
        scheduler: Scheduler,
        limits: EngineLimits,
        mailbox: Mailbox,
        rate_limiter: RateLimiter,
        control: AdapterControl,
        merger: HotMerger | None = None,
    ) -> None:
        self.model_name = model_name
        self.tokenizer = tokenizer
        self.special_tokens = special_tokens
        self.max_context = limits.max_context
        self._eos_token_ids = eos_token_ids
        self._runner = runner
        self._builder = builder
        self._pool = pool
        self._adapters = adapters
        self._scheduler = scheduler
        self._limits = limits
        self._mailbox = mailbox
        self._rate_limiter = rate_limiter
        self._control = control
        self._looks = AdapterLooks(adapters.look_up)
        self._figures = StepFigures()
        self._merger = merger
        self._arriving: dict[Sequence, Generation] = {}
        """Taken in; the engine's thread has not seen them yet."""
        self._generations: dict[Sequence, Generation] = {}
        self._by_id: dict[str, Sequence] = {}
        """All that have not had their final event."""
        self._counts = Counts()
        self._is_broken = False
        # Held while a request is taken in, so that none slips in behind a cancel or the end.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="gossamer-engine", daemon=True)
        self._thread.start()
        atexit.register(self._stop_at_exit)

    # From any thread.

    def look_up(self, name: str) -> "Future[AnyAdapter]":
        """See `EngineInterface.look_up`."""
        return self._looks.look_up(name)

    def check_entry(self, tenant: str, *, own: int, others: int) -> None:
        """See `EngineInterface.check_entry`."""
        with self._lock:
            self._rate_limiter.check(tenant, own=own, num_waiting=self._num_waiting + others)

    def submit(
        self,
        request: Request,
        on_event: Callable[[Event], None],
        adapter: AnyAdapter | None = None,
    ) -> None:
        """See `EngineInterface.submit`."""
        most = check_request(request, self._limits, self._pool.num_blocks)
        if adapter is None and request.adapter is not None:
            adapter = self._adapters.look_up(request.adapter)
        sequence = Sequence(
            request=request,
            adapter=adapter,
            max_new_tokens=most,
            token_ids=list(request.prompt_token_ids),
            arrived=time.monotonic(),
        )
        generation = self._generation(sequence, on_event)
        with self._lock:
            if request.request_id in self._by_id:
                raise RequestError(f"request id '{request.request_id}' is in use")
            self._rate_limiter.admit(request, self._num_waiting)
            self._by_id[request.request_id] = sequence
            self._arriving[sequence] = generation
            self._mailbox.post(lambda: self._enqueue(sequence))
            if sequence.adapter is not None and self._num_waiting <= self._scheduler.num_read_ahead:
                self._adapters.prefetch_read(sequence.adapter)

    def cancel(self, request_id: str) -> None:
        """See `EngineInterface.cancel`."""
        with self._lock:
            sequence = self._by_id.get(request_id)
            if sequence is not None:
                with suppress(EngineStoppedError):  # it is ended with all others just now
                    self._mailbox.post(lambda: self._cancel(sequence))

    def adapters(self) -> list[AdapterStatus]:
        """See `EngineInterface.adapters`."""
        return self._looks.listing(self._adapters.statuses)

    def adapter(self, name: str) -> AdapterStatus:
        """See `EngineInterface.adapter`."""
        return self._looks.listing(lambda: self._adapters.status(name))

    def load_adapter(
        self, name: str, folder: str | None = None, *, replace: bool = False, pin: bool = False
    ) -> "Future[AdapterStatus]":
        """See `EngineInterface.load_adapter`."""
        self._require_open()
        return self._control.load(name, folder, replace=replace, pin=pin)

    def unload_adapter(self, name: str) -> "Future[None]":
        """See `EngineInterface.unload_adapter`."""
        self._require_open()
        return self._control.unload(name)

    def pin_adapter(self, name: str, *, pinned: bool) -> "Future[AdapterStatus]":
        """See `EngineInterface.pin_adapter`."""
        self._require_open()
        return self._control.pin(name, pinned=pinned)

    def healthy(self) -> bool:
        """See `EngineInterface.healthy`."""
        return self._rate_limiter.is_open and self._thread.is_alive()

    def stats(self) -> EngineStats:
        """See `EngineInterface.stats`."""
        return stats_of(
            self._adapters,
            self._scheduler,
            self._pool,
            self._merger,
            counts=self._counts,
            step=self._figures.stats(),
            block_bytes=self._limits.block_bytes,
            open_requests=list(self._by_id.values()),
        )

    def shutdown(self, *, drain_seconds: float = 0.0) -> None:
        """See `EngineInterface.shutdown`."""
        self._stop(drain_seconds, STOP_SECONDS)

    def _stop(self, drain_seconds: float, stop_seconds: float) -> None:
        self._close_door()
        deadline = time.monotonic() + drain_seconds
        while self._by_id and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._mailbox.stop()
        if threading.current_thread() is self._thread:
            return  # Called by a receiver: the thread ends when that has returned.
        self._thread.join(stop_seconds)
        if self._thread.is_alive():
            log.error("the engine's thread hangs; its requests are ended without it")
            self._end_without_thread()
        self._adapters.close()
        if self._merger is not None:
            self._merger.close()
        atexit.unregister(self._stop_at_exit)

    def _stop_at_exit(self) -> None:
        # A thread that computes while the interpreter is taken down may crash it.
        self._stop(0.0, EXIT_SECONDS)

    @property
    def _num_waiting(self) -> int:
        return max(0, len(self._by_id) - len(self._scheduler.running))

    def _require_open(self) -> None:
        if not self.healthy():
            raise EngineStoppedError("the server is shutting down")

    def _close_door(self) -> None:
        with self._lock:
            self._rate_limiter.close()

    # On the engine's thread.

    def _loop(self) -> None:
        failure: EngineStoppedError | None = None
        try:
            while self._mailbox.wait(busy=self._turn()):
                if self._is_broken:
                    raise RuntimeError("the scheduler is in disorder")
        except BaseException:
            log.exception("the engine has failed")
            failure = EngineStoppedError("the engine has failed; see the server's log")
        finally:
            self._end_all(failure)

    def _end_all(self, failure: EngineStoppedError | None) -> None:
        """The last events: no request that came in stays without an answer."""
        self._close_door()
        for message in self._mailbox.close():
            guard(message)
        guard(self._control.close)
        for sequence in (*self._generations, *self._arriving):
            if failure is None:
                guard(partial(self._finish, sequence, "cancelled"))
            # What the scheduler holds may be in disorder.
            self._end(sequence, failure or EngineStoppedError(_FAILED))

    def _end_without_thread(self) -> None:
        """On another thread: the engine's own hangs, and may go on later."""
        self._control.close()
        for sequence in list(self._by_id.values()):
            self._end(sequence, EngineStoppedError("the engine hangs; the answer was cut off"))

    def _turn(self) -> bool:
        """Do what can be done now; False if only a message can bring more to do."""
        try:
            for message in self._mailbox.take():
                guard(message)
            self._adapters.collect_loads()
            self._control.turn()
            if self._merger is not None:
                self._merger.follow()
            for sequence, error in self._scheduler.pop_refused():
                if error is not None:
                    self._end(sequence, error)
                else:
                    self._conclude(sequence, "length")
            step = self._scheduler.plan()
            if step:
                self._run(step)
            elif not self._generations:
                self._recount()
            return bool(step) or self._scheduler.wants_step or self._is_broken
        except Exception:
            log.exception("a turn of the engine has failed")
            self._fail(list(self._generations))
            return self._is_broken

    def _run(self, step: list[ScheduledChunk]) -> None:
        started = time.monotonic()
        try:
            merged = self._merger.choose(step) if self._merger is not None else None
            batch = self._builder.build(step, merged)
            built = time.monotonic()
            logits = self._runner.run(batch)
            computed = time.monotonic()
            choices = sample(logits, [self._generations[s].sampling for s in batch.sampled])
        except Exception as error:
            # No memory, say. The requests of this step end; the others go on.
            log.exception("a step has failed")
            self._fail(self._scheduler.failed(step, error))
            return
        ended = time.monotonic()
        self._figures.observe(adapters_of(step), (started, built, computed, ended))
        self._scheduler.record_step(step, ended - started)
        self._counts.steps += 1
        self._counts.generated_tokens += sum(choice is not None for choice in choices)
        for part in step:
            sequence = part.sequence
            if sequence.prefix_of is None and not (part.count == 1 and sequence.is_decoding):
                self._counts.prompt_tokens += part.count
            self._scheduler.computed(part)
        for sequence, choice in zip(batch.sampled, choices, strict=True):
            self._accept(sequence, choice)

    def _accept(self, sequence: Sequence, choice: SampledToken | None) -> None:
        if choice is None:
            self._fail([sequence], not_finite(sequence.adapter))
            return
        try:
            self._scheduler.record_token(sequence)
            self._rate_limiter.spend(sequence.tenant, 1)
            reason = self._generations[sequence].accept(choice)
        except Exception:
            log.exception("a token could not be taken")
            self._fail([sequence])
            return
        if reason is not None:
            self._finish(sequence, reason)

    def _recount(self) -> None:
        recount(self._adapters, self._pool)

    def _generation(self, sequence: Sequence, on_event: Callable[[Event], None]) -> Generation:
        params = sequence.request.sampling
        return Generation(
            sequence=sequence,
            sampling=SamplingState(params, tuple(self._eos_token_ids)),
            stream=TextStream(self.tokenizer, params.stop),
            eos_token_ids=self._eos_token_ids,
            vocabulary=vocabulary_of(self.tokenizer),
            emit=Receiver(on_event),
        )

    def _enqueue(self, sequence: Sequence) -> None:
        generation = self._arriving.pop(sequence, None)
        if generation is None:  # ended meanwhile
            return
        self._generations[sequence] = generation
        try:
            self._scheduler.add(sequence)
        except Exception:
            log.exception("a request could not be queued")
            self._fail([sequence])

    def _cancel(self, sequence: Sequence) -> None:
        # It may have ended since it was asked for.
        if sequence in self._generations:
            self._finish(sequence, "cancelled")

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._scheduler.remove(sequence)
        self._conclude(sequence, reason)

    def _conclude(self, sequence: Sequence, reason: FinishReason) -> None:
        if (generation := self._forget(sequence, reason)) is not None:
            generation.finish(reason)

    def _fail(self, sequences: list[Sequence], error: GossamerError | None = None) -> None:
        """End `sequences`. If the scheduler cannot give one up, the engine ends after this turn."""
        for sequence in sequences:
            try:
                self._scheduler.remove(sequence)
            except Exception:
                log.exception("the scheduler cannot give up a request")
                self._is_broken = True
            self._end(sequence, error or ServingError(_FAILED))

    def _end(self, sequence: Sequence, error: GossamerError) -> None:
        if (generation := self._forget(sequence, "failed")) is not None:
            generation.fail(error)

    def _forget(self, sequence: Sequence, reason: str) -> Generation | None:
        """What tells the end of `sequence`, if nobody has told it yet. From any thread."""
        generation = self._generations.pop(sequence, None) or self._arriving.pop(sequence, None)
        if generation is not None:
            self._by_id.pop(sequence.request.request_id, None)
            self._counts.finished[reason] += 1
            guard(lambda: self._rate_limiter.leave(sequence.tenant))
        return generation
