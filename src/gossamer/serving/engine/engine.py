"""The engine as others know it: any thread asks, and its own two threads answer."""

import atexit
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from gossamer.errors import EngineStoppedError, RequestError
from gossamer.serving.core.adapter import AnyAdapter
from gossamer.serving.core.futures import call_elsewhere
from gossamer.serving.core.mailbox import Mailbox
from gossamer.serving.core.messages import Event, Request, StructuredOutputs
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.stats import AdapterStatus, EngineStats
from gossamer.serving.core.validation import check_request
from gossamer.serving.engine.adapter_control import AdapterControl
from gossamer.serving.engine.loop import EngineLoop
from gossamer.serving.engine.output import ModelInfo
from gossamer.serving.runner.model_runner import ModelRunner
from gossamer.serving.scheduler.rate_limiter import RateLimiter
from gossamer.serving.scheduler.scheduler import Scheduler

STOP_SECONDS = 30.0
"""So long `shutdown` waits for each thread, and so for the step that is being computed; longer is a
hang."""

EXIT_SECONDS = 5.0
"""Seconds for the threads to end where the interpreter ends and `shutdown` was not called."""


class Engine:
    """Implements `EngineInterface`, `PreparingEngine` and `HoldingEngine`.

    Build one with `build.build_engine`, which also starts it.
    """

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
        self.loop = EngineLoop(runner, scheduler, rate_limiter, mailbox, control)
        self._requests = self.loop.requests

    def start(self) -> None:
        """Start the engine's threads; called once."""
        self.loop.start()
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

    def hold(self, adapter: AnyAdapter) -> Callable[[], None]:
        """See `HoldingEngine.hold`."""
        return self.control.hold(adapter)

    def check_entry(self, tenant: str, *, own: int, others: int) -> None:
        """See `EngineInterface.check_entry`."""
        with self.loop.taking_in:
            self.rate_limiter.check(tenant, own=own, num_waiting=self._num_waiting + others)

    def prepare(self, form: StructuredOutputs) -> "Future[object]":
        """See `PreparingEngine.prepare`."""
        return self.model.grammars.prepare(form)

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
        # Compiles a form that the answer is to have, if it was not prepared.
        tell = self.loop.detokenizer.tell
        generation = self.model.generation(sequence, on_event, tell)
        with self.loop.taking_in:
            if request.request_id in self._requests:
                raise RequestError(f"request id '{request.request_id}' is in use")
            self.rate_limiter.admit(request, self._num_waiting)
            self._requests.add(generation)
            self.mailbox.post(lambda: self.loop.enqueue(sequence))
            if adapter is not None and self._num_waiting <= self.scheduler.num_read_ahead:
                self.control.prefetch_read(adapter)

    def cancel(self, request_id: str) -> None:
        """See `EngineInterface.cancel`."""
        with self.loop.taking_in:
            sequence = self._requests.find(request_id)
            if sequence is not None:
                with suppress(EngineStoppedError):  # it is ended with all others just now
                    self.mailbox.post(lambda: self.loop.cancel(sequence))

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
        is_alive = self.loop.is_alive and self.loop.detokenizer.is_alive
        return self.rate_limiter.is_open and is_alive

    def check(self) -> None:
        """Raise `RankLostError` if another process of the model is lost."""
        self.runner.check()

    def stats(self) -> EngineStats:
        """See `EngineInterface.stats`."""
        return self.loop.figures.stats(
            self.scheduler,
            self.control.stats(),
            self.runner.stats(),
            self.model.grammars.stats(),
            self._requests.sequences(),
            self.model.limits.block_bytes,
        )

    def audit(self) -> None:
        """Have the engine's thread recount blocks, rows and users; raises `AssertionError`.

        Counts at once where the thread does not run, or calls this itself.
        """
        if not self.loop.is_alive or self.loop.is_current_thread():
            self._audit()
            return
        call_elsewhere(self.mailbox.post, self._audit)

    def _audit(self) -> None:
        self.scheduler.audit()
        self.runner.audit((entry.table, entry.blocks) for entry in self.scheduler.memory.resident)

    def shutdown(self, *, drain_seconds: float = 0.0) -> None:
        """See `EngineInterface.shutdown`."""
        self._stop(drain_seconds, STOP_SECONDS)

    def join(self, seconds: float) -> bool:
        """Wait until the engine's threads have ended, `seconds` at most each; whether they have."""
        return self.loop.join(seconds)

    def _stop(self, drain_seconds: float, stop_seconds: float) -> None:
        self.loop.refuse_requests()
        deadline = time.monotonic() + drain_seconds
        while self._requests and self.loop.is_alive and time.monotonic() < deadline:
            time.sleep(0.02)
        self.mailbox.stop()
        if self.loop.is_current_thread() or self.loop.detokenizer.is_current_thread():
            return  # Called by a receiver: the threads end when that has returned.
        self.loop.end(stop_seconds)
        self.control.close()
        self.runner.close()
        self.model.grammars.close()
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
