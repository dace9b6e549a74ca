"""The engine: one thread that schedules, runs and answers, step after step.

Requests come in and events go out by messages; the thread alone touches scheduler, pool and model.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gossamer.errors import (
    CapacityError,
    EngineStoppedError,
    OverloadedError,
    RequestError,
    ServingError,
)
from gossamer.serving.adapter_store import AdapterStore
from gossamer.serving.batch import BatchBuilder
from gossamer.serving.block_pool import BlockPool
from gossamer.serving.generation import Generation
from gossamer.serving.interface import AdapterStatus, EngineStats
from gossamer.serving.messages import Event, FinishReason, Request
from gossamer.serving.runner import Runner
from gossamer.serving.sampler import SamplingState, sample
from gossamer.serving.scheduler import Scheduled, Scheduler
from gossamer.serving.sequence import Sequence
from gossamer.serving.text import TextStream

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What a request must keep to."""

    max_context: int
    max_waiting: int
    vocab_size: int
    block_tokens: int
    block_bytes: int


class Engine:
    """Implements `EngineInterface`. Build one with `build.build_engine`."""

    def __init__(
        self,
        *,
        model_name: str,
        tokenizer: Any,
        eos_token_ids: frozenset[int],
        runner: Runner,
        builder: BatchBuilder,
        pool: BlockPool,
        adapters: AdapterStore,
        scheduler: Scheduler,
        limits: EngineLimits,
        bell: "Bell",
    ) -> None:
        self.model_name = model_name
        self.tokenizer = tokenizer
        self.max_context = limits.max_context
        self._eos_token_ids = eos_token_ids
        self._runner = runner
        self._builder = builder
        self._pool = pool
        self._adapters = adapters
        self._scheduler = scheduler
        self._limits = limits
        self._bell = bell
        self._generations: dict[Sequence, Generation] = {}
        self._by_id: dict[str, Sequence] = {}
        self._finished: Counter[str] = Counter(stop=0, length=0, cancelled=0, failed=0)
        self._finish_times: deque[float] = deque(maxlen=32)
        self._num_steps = self._num_prompt_tokens = self._num_generated = 0
        self._accepting = True
        # Held while a request is taken in, so that none slips in behind a cancel or the end.
        self._door = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="gossamer-engine", daemon=True)
        self._thread.start()

    # From any thread.

    def submit(self, request: Request, on_event: Callable[[Event], None]) -> None:
        """See `EngineInterface.submit`."""
        self._check_prompt(request)
        sequence = Sequence(
            request=request,
            adapter=self._adapters.look_up(request.adapter) if request.adapter else None,
            max_new_tokens=self._max_new_tokens(request),
            token_ids=list(request.prompt_token_ids),
        )
        with self._door:
            self._check_room(request)
            self._by_id[request.request_id] = sequence
            self._bell.ring(lambda: self._enqueue(sequence, on_event))

    def cancel(self, request_id: str) -> None:
        """See `EngineInterface.cancel`."""
        with self._door:
            self._bell.ring(lambda: self._cancel(request_id))

    def adapters(self) -> list[AdapterStatus]:
        """See `EngineInterface.adapters`."""
        return self._adapters.statuses()

    def healthy(self) -> bool:
        """See `EngineInterface.healthy`."""
        return self._accepting and self._thread.is_alive()

    def stats(self) -> EngineStats:
        """See `EngineInterface.stats`."""
        resident = self._adapters.resident
        blocks_adapters = sum(len(entry.blocks) for entry in resident)
        free = self._pool.num_free
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=self._num_waiting,
            blocks_total=self._pool.num_blocks,
            blocks_free=free,
            blocks_kv=max(0, self._pool.num_blocks - free - blocks_adapters),
            blocks_adapters=blocks_adapters,
            block_bytes=self._limits.block_bytes,
            adapters_resident=len(resident),
            adapter_loads=self._adapters.num_loads,
            adapter_evictions=self._adapters.num_evictions,
            preemptions=self._scheduler.num_preemptions,
            steps=self._num_steps,
            prompt_tokens=self._num_prompt_tokens,
            generated_tokens=self._num_generated,
            finished=dict(self._finished),
        )

    def shutdown(self, *, drain_seconds: float = 0.0) -> None:
        """See `EngineInterface.shutdown`."""
        self._close_door()
        deadline = time.monotonic() + drain_seconds
        while self._by_id and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._bell.stop()
        self._thread.join()
        self._adapters.close()

    @property
    def _num_waiting(self) -> int:
        return max(0, len(self._by_id) - len(self._scheduler.running))

    def _close_door(self) -> None:
        with self._door:
            self._accepting = False

    def _check_room(self, request: Request) -> None:
        if not self._accepting:
            raise EngineStoppedError("the server is shutting down")
        if request.request_id in self._by_id:
            raise RequestError(f"request id '{request.request_id}' is in use")
        waiting = self._num_waiting
        if waiting >= self._limits.max_waiting:
            raise OverloadedError(
                f"{waiting} requests are waiting already; try again later",
                retry_after=self._seconds_for(waiting),
            )

    def _seconds_for(self, count: int) -> float:
        """Seconds in which `count` requests ended lately; 1 at least."""
        times = self._finish_times
        if len(times) < 2:
            return 1.0
        return max(1.0, count * (times[-1] - times[0]) / (len(times) - 1))

    def _check_prompt(self, request: Request) -> None:
        tokens = request.prompt_token_ids
        if not tokens:
            raise RequestError("the prompt is empty", param="prompt")
        if not 0 <= min(tokens) <= max(tokens) < self._limits.vocab_size:
            raise RequestError(
                f"prompt token ids must lie in 0..{self._limits.vocab_size - 1}", param="prompt"
            )
        if len(tokens) >= self.max_context:
            raise RequestError(
                f"the prompt has {len(tokens)} tokens and the context length is "
                f"{self.max_context}; shorten it",
                param="prompt",
            )

    def _max_new_tokens(self, request: Request) -> int:
        prompt, asked = len(request.prompt_token_ids), request.sampling.max_tokens
        if asked is not None and prompt + asked > self.max_context:
            raise RequestError(
                f"{prompt} prompt tokens and max_tokens={asked} exceed the context length of "
                f"{self.max_context}; ask for at most {self.max_context - prompt}",
                param="max_tokens",
            )
        capacity = self._pool.num_blocks * self._limits.block_tokens
        if prompt + (asked or 1) > capacity:
            raise CapacityError(
                f"{prompt} prompt tokens and {asked or 1} new ones exceed the memory for "
                f"{capacity} tokens; ask for fewer or serve with more --memory"
            )
        return asked if asked is not None else min(self.max_context, capacity) - prompt

    # On the engine's thread.

    def _loop(self) -> None:
        try:
            while self._bell.wait(busy=self._turn()):
                pass
        except BaseException:
            log.exception("the engine has failed")
        finally:
            self._close_door()
            for message in self._bell.take():
                message()
            for sequence in list(self._generations):
                self._forget(sequence, "cancelled").finish("cancelled")

    def _turn(self) -> bool:
        """Do what can be done now; False if only a message can bring more to do."""
        try:
            for message in self._bell.take():
                message()
            self._adapters.collect_loads()
            for sequence, error in self._scheduler.take_refused():
                self._forget(sequence, "failed").fail(error)
            step = self._scheduler.plan()
            if step:
                self._run(step)
            elif not self._generations:
                self._recount()
            return bool(step)
        except Exception:
            log.exception("a turn of the engine has failed")
            self._fail(list(self._generations))
            return False

    def _run(self, step: list[Scheduled]) -> None:
        try:
            batch = self._builder.build(step)
            logits = self._runner.run(batch)
            choices = sample(logits, [self._generations[s].sampling for s in batch.sampled])
        except Exception:
            # No memory, say. The requests of this step end; the others go on.
            log.exception("a step has failed")
            self._fail([part.sequence for part in step])
            return
        self._num_steps += 1
        self._num_generated += len(choices)
        for part in step:
            sequence = part.sequence
            if not (part.count == 1 and sequence.is_decoding):
                self._num_prompt_tokens += part.count
            sequence.num_computed += part.count
        for sequence, choice in zip(batch.sampled, choices, strict=True):
            reason = self._generations[sequence].accept(choice)
            if reason is not None:
                self._finish(sequence, reason)

    def _recount(self) -> None:
        """With no request left, every block is free or holds rows of a resident adapter."""
        self._pool.audit()
        held = sum(len(entry.blocks) for entry in self._adapters.resident)
        assert held == self._pool.num_blocks - self._pool.num_free, "blocks without an owner"
        assert not any(entry.users for entry in self._adapters.resident), "a user without a request"

    def _enqueue(self, sequence: Sequence, on_event: Callable[[Event], None]) -> None:
        params = sequence.request.sampling
        self._generations[sequence] = Generation(
            sequence=sequence,
            sampling=SamplingState(params, tuple(self._eos_token_ids)),
            stream=TextStream(self.tokenizer, params.stop),
            eos_token_ids=self._eos_token_ids,
            tokenizer=self.tokenizer,
            emit=_guarded(on_event),
        )
        self._scheduler.add(sequence)

    def _cancel(self, request_id: str) -> None:
        sequence = self._by_id.get(request_id)
        if sequence is not None:
            self._finish(sequence, "cancelled")

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._scheduler.remove(sequence)
        self._forget(sequence, reason).finish(reason)

    def _fail(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            self._scheduler.remove(sequence)
            error = ServingError("the server failed to compute this request; see its log")
            self._forget(sequence, "failed").fail(error)

    def _forget(self, sequence: Sequence, reason: str) -> Generation:
        self._finished[reason] += 1
        self._finish_times.append(time.monotonic())
        del self._by_id[sequence.request.request_id]
        return self._generations.pop(sequence)


class Bell:
    """Messages to the engine's thread, which sleeps while there are none."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: list[Callable[[], None]] = []
        self._rung = False
        self._stopped = False

    def ring(self, message: Callable[[], None] | None = None) -> None:
        """Leave a message, or only wake the thread."""
        with self._changed:
            if message is not None:
                self._messages.append(message)
            self._rung = True
            self._changed.notify()

    def stop(self) -> None:
        """Have `wait` return False."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def take(self) -> list[Callable[[], None]]:
        """All messages so far."""
        with self._changed:
            messages, self._messages = self._messages, []
            self._rung = False
            return messages

    def wait(self, *, busy: bool) -> bool:
        """Sleep until rung, unless `busy`; False once stopped."""
        with self._changed:
            while not (busy or self._rung or self._stopped):
                self._changed.wait()
            return not self._stopped


def _guarded(on_event: Callable[[Event], None]) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        try:
            on_event(event)
        except Exception:  # a receiver's fault is not the engine's
            log.exception("the receiver of an event has failed")

    return emit
