"""The engine: one thread that schedules, runs and answers, step after step.

Requests come in and events go out by messages; the thread alone touches scheduler, pool and model.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from gossamer.errors import (
    EngineStoppedError,
    RequestError,
    ServingError,
)
from gossamer.serving.adapter_control import AdapterControl
from gossamer.serving.adapter_looks import AdapterLooks
from gossamer.serving.adapter_store import AdapterStore
from gossamer.serving.batch import BatchBuilder
from gossamer.serving.bell import Bell
from gossamer.serving.blend import AnyAdapter
from gossamer.serving.block_pool import BlockPool
from gossamer.serving.door import Door
from gossamer.serving.generation import Generation
from gossamer.serving.hot_merge import HotMerger
from gossamer.serving.interface import AdapterStatus, EngineStats, TenantStats
from gossamer.serving.messages import Event, FinishReason, Request
from gossamer.serving.request_checks import check_prompt, check_sampling, max_new_tokens
from gossamer.serving.runner import Runner
from gossamer.serving.sampler import Choice, SamplingState, sample
from gossamer.serving.scheduler import Scheduled, Scheduler, adapters_of
from gossamer.serving.sequence import Sequence
from gossamer.serving.step_figures import StepFigures
from gossamer.serving.text import TextStream
from gossamer.serving.vocabulary import vocabulary_of

log = logging.getLogger(__name__)

_FAILED = "the server failed to compute this request; see its log"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What a request must keep to."""

    max_context: int
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
        bell: Bell,
        door: Door,
        control: AdapterControl,
        merger: HotMerger | None = None,
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
        self._door = door
        self._control = control
        self._looks = AdapterLooks(adapters.look_up)
        self._figures = StepFigures()
        self._merger = merger
        self._generations: dict[Sequence, Generation] = {}
        self._by_id: dict[str, Sequence] = {}
        self._finished: Counter[str] = Counter(stop=0, length=0, cancelled=0, failed=0)
        self._num_steps = self._num_prompt_tokens = self._num_generated = 0
        # Held while a request is taken in, so that none slips in behind a cancel or the end.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="gossamer-engine", daemon=True)
        self._thread.start()

    # From any thread.

    def look_up(self, name: str) -> "Future[AnyAdapter]":
        """See `EngineInterface.look_up`."""
        return self._looks.look_up(name)

    def submit(
        self,
        request: Request,
        on_event: Callable[[Event], None],
        adapter: AnyAdapter | None = None,
    ) -> None:
        """See `EngineInterface.submit`."""
        limits = self._limits
        check_prompt(request, max_context=self.max_context, vocab_size=limits.vocab_size)
        check_sampling(request.sampling)
        capacity = self._pool.num_blocks * limits.block_tokens
        if adapter is None and request.adapter is not None:
            adapter = self._adapters.look_up(request.adapter)
        sequence = Sequence(
            request=request,
            adapter=adapter,
            max_new_tokens=max_new_tokens(request, max_context=self.max_context, capacity=capacity),
            token_ids=list(request.prompt_token_ids),
            arrived=time.monotonic(),
        )
        generation = self._generation(sequence, on_event)
        with self._lock:
            if request.request_id in self._by_id:
                raise RequestError(f"request id '{request.request_id}' is in use")
            self._door.enter(request, self._num_waiting)
            self._by_id[request.request_id] = sequence
            self._bell.ring(lambda: self._enqueue(generation))
            if sequence.adapter is not None and self._num_waiting <= self._scheduler.num_read_ahead:
                self._adapters.anticipate(sequence.adapter)

    def cancel(self, request_id: str) -> None:
        """See `EngineInterface.cancel`."""
        with self._lock:
            sequence = self._by_id.get(request_id)
            if sequence is not None:
                self._bell.ring(lambda: self._cancel(sequence))

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
        return self._door.is_open and self._thread.is_alive()

    def stats(self) -> EngineStats:
        """See `EngineInterface.stats`."""
        resident = self._adapters.resident
        blocks_adapters = sum(len(entry.blocks) for entry in (*resident, *self._adapters.placing))
        blocks_cached = self._adapters.prefixes.num_idle
        free = self._pool.num_free
        merger = self._merger
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=self._num_waiting,
            blocks_total=self._pool.num_blocks,
            blocks_free=free,
            blocks_kv=max(0, self._pool.num_blocks - free - blocks_adapters - blocks_cached),
            blocks_cached=blocks_cached,
            blocks_adapters=blocks_adapters,
            block_bytes=self._limits.block_bytes,
            adapters_resident=len(resident),
            adapters_by_state=self._adapters.num_by_state(),
            resident_bytes={entry.name: entry.num_bytes or 0 for entry in resident},
            adapters_host=len(self._adapters.host),
            host_bytes=self._adapters.host.num_bytes,
            adapter_hits=dict(self._adapters.hits),
            adapter_read_seconds=self._adapters.reader.seconds.stats(),
            prefix_queried_tokens=self._adapters.prefixes.num_queried_tokens,
            prefix_hit_tokens=self._adapters.prefixes.num_hit_tokens,
            prefix_evictions=self._adapters.prefixes.num_evictions,
            step=self._figures.stats(),
            adapter_loads=self._adapters.num_loads,
            adapter_evictions=self._adapters.num_evictions,
            preemptions=self._scheduler.num_preemptions,
            steps=self._num_steps,
            prompt_tokens=self._num_prompt_tokens,
            generated_tokens=self._num_generated,
            finished=dict(self._finished),
            merged_adapter=merger.merged_name if merger else None,
            adapter_merges=merger.num_merges if merger else 0,
            merged_steps=merger.num_steps if merger else 0,
            tenants=self._tenants(),
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
        if self._merger is not None:
            self._merger.close()

    def _tenants(self) -> tuple[TenantStats, ...]:
        in_flight = Counter(sequence.tenant for sequence in list(self._by_id.values()))
        running = Counter(sequence.tenant for sequence in list(self._scheduler.running))
        return self._scheduler.accounts.stats(in_flight - running, running)

    @property
    def _num_waiting(self) -> int:
        return max(0, len(self._by_id) - len(self._scheduler.running))

    def _require_open(self) -> None:
        if not self.healthy():
            raise EngineStoppedError("the server is shutting down")

    def _close_door(self) -> None:
        with self._lock:
            self._door.is_open = False

    # On the engine's thread.

    def _loop(self) -> None:
        failure: EngineStoppedError | None = None
        try:
            while self._bell.wait(busy=self._turn()):
                pass
        except BaseException:
            log.exception("the engine has failed")
            failure = EngineStoppedError("the engine has failed; see the server's log")
        finally:
            self._end_all(failure)

    def _end_all(self, failure: EngineStoppedError | None) -> None:
        """The last events: no request that came in stays without an answer."""
        self._close_door()
        for message in self._bell.take():
            message()
        self._control.close()
        for sequence in list(self._generations):
            if failure is None:
                self._finish(sequence, "cancelled")
            else:
                # What the scheduler holds may be in disorder.
                self._forget(sequence, "failed").fail(failure)

    def _turn(self) -> bool:
        """Do what can be done now; False if only a message can bring more to do."""
        try:
            for message in self._bell.take():
                message()
            self._adapters.collect_loads()
            self._control.turn()
            if self._merger is not None:
                self._merger.follow()
            for sequence, error in self._scheduler.take_refused():
                if error is not None:
                    self._forget(sequence, "failed").fail(error)
                else:
                    self._forget(sequence, "length").finish("length")
            step = self._scheduler.plan()
            if step:
                self._run(step)
            elif not self._generations:
                self._recount()
            return bool(step) or self._scheduler.wants_turn
        except Exception:
            log.exception("a turn of the engine has failed")
            self._fail(list(self._generations))
            return False

    def _run(self, step: list[Scheduled]) -> None:
        started = time.monotonic()
        try:
            merged = self._merger.choose(step) if self._merger is not None else None
            batch = self._builder.build(step, merged)
            built = time.monotonic()
            logits = self._runner.run(batch)
            computed = time.monotonic()
            choices = sample(logits, [self._generations[s].sampling for s in batch.sampled])
        except Exception:
            # No memory, say. The requests of this step end; the others go on.
            log.exception("a step has failed")
            self._fail([part.sequence for part in step])
            return
        ended = time.monotonic()
        self._figures.observe(adapters_of(step), (started, built, computed, ended))
        self._scheduler.record_step(step, ended - started)
        self._num_steps += 1
        self._num_generated += sum(choice is not None for choice in choices)
        for part in step:
            sequence = part.sequence
            if not (part.count == 1 and sequence.is_decoding):
                self._num_prompt_tokens += part.count
            self._scheduler.computed(part)
        for sequence, choice in zip(batch.sampled, choices, strict=True):
            self._accept(sequence, choice)

    def _accept(self, sequence: Sequence, choice: Choice | None) -> None:
        if choice is None:
            self._fail([sequence], "the model's output for this request is not a finite number")
            return
        self._scheduler.record_token(sequence)
        self._door.spend(sequence.tenant, 1)
        try:
            reason = self._generations[sequence].accept(choice)
        except Exception:
            log.exception("a token could not be taken")
            self._fail([sequence])
            return
        if reason is not None:
            self._finish(sequence, reason)

    def _recount(self) -> None:
        """With no request left, every block is free or holds rows of a resident adapter."""
        self._pool.audit()
        store = self._adapters
        store.audit()
        store.prefixes.audit(())
        held = sum(len(entry.blocks) for entry in (*store.resident, *store.placing))
        held += store.prefixes.num_blocks
        assert held == self._pool.num_blocks - self._pool.num_free, "blocks without an owner"
        assert not any(entry.users for entry in self._adapters.resident), "a user without a request"

    def _generation(self, sequence: Sequence, on_event: Callable[[Event], None]) -> Generation:
        params = sequence.request.sampling
        return Generation(
            sequence=sequence,
            sampling=SamplingState(params, tuple(self._eos_token_ids)),
            stream=TextStream(self.tokenizer, params.stop),
            eos_token_ids=self._eos_token_ids,
            vocabulary=vocabulary_of(self.tokenizer),
            emit=_guarded(on_event),
        )

    def _enqueue(self, generation: Generation) -> None:
        self._generations[generation.sequence] = generation
        self._scheduler.add(generation.sequence)

    def _cancel(self, sequence: Sequence) -> None:
        # It may have ended since it was asked for.
        if sequence in self._generations:
            self._finish(sequence, "cancelled")

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._scheduler.remove(sequence)
        self._forget(sequence, reason).finish(reason)

    def _fail(self, sequences: list[Sequence], why: str = _FAILED) -> None:
        for sequence in sequences:
            self._scheduler.remove(sequence)
            self._forget(sequence, "failed").fail(ServingError(why))

    def _forget(self, sequence: Sequence, reason: str) -> Generation:
        self._finished[reason] += 1
        self._door.leave(sequence.tenant)
        del self._by_id[sequence.request.request_id]
        return self._generations.pop(sequence)


def _guarded(on_event: Callable[[Event], None]) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        try:
            on_event(event)
        except Exception:  # a receiver's fault is not the engine's
            log.exception("the receiver of an event has failed")

    return emit
