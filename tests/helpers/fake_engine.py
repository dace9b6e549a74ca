"""An engine without a model: its own thread, answers from a script, and a record of all calls."""

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from gossamer.errors import (
    EngineStoppedError,
    GossamerError,
    OverloadedError,
    UnknownModelError,
    UnsupportedAdapterError,
    unknown_name_message,
)
from gossamer.serving.core.adapter import AdapterEntry, Blend, adapters_in, parse_blend
from gossamer.serving.core.messages import Event, Failed, Finished, Request, TokenLogprob, Tokens
from gossamer.serving.core.stats import AdapterStatus, EngineStats

Script = Callable[[Request], Sequence[str | GossamerError]]
"""The pieces of text that a request gives, one token each; an error ends it as failed."""


def greeting(request: Request) -> list[str]:
    """Says who is asked, and with which seed."""
    who = request.adapter or "base"
    return ["I", " am ", who, f" {request.sampling.seed}"]


def endless(request: Request) -> list[str]:
    """More than any test waits for."""
    return ["x"] * 100_000


class FakeEngine:
    """Gives each running request a token every `delay` seconds."""

    model_name = "tiny"
    special_tokens = "prompts"

    def __init__(
        self,
        tokenizer,
        *,
        adapters: Sequence[AdapterStatus] = (),
        script: Script = greeting,
        delay: float = 0.0,
        max_context: int = 256,
        max_waiting: int = 10_000,
        refuse: Callable[[Request], Exception | None] = lambda request: None,
    ) -> None:
        self.tokenizer = tokenizer
        # The pieces that are texts of special tokens have their ids.
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {each.content: id_ for id_, each in added.items() if each.special}
        self.max_context = max_context
        self.script = script
        self.delay = delay
        self.refuse = refuse
        self.max_waiting = max_waiting
        self.refuse_entry: Callable[[str, int, int], None] | None = None
        self.submitted: list[Request] = []
        self.controls: list[tuple] = []
        """Calls that load, unload or pin."""
        self.control_answer: Exception | None = None
        """Raised by these calls; `control_result` by their futures."""
        self.control_result: Exception | None = None
        self.cancelled: list[str] = []
        self.finals: Counter[str] = Counter()
        """Final events by request id."""
        self.reasons: Counter[str] = Counter()
        self._adapters = list(adapters)
        self._running: dict[str, _Running] = {}
        self._queue: list[tuple[float, int, str]] = []
        self._changed = threading.Condition()
        self._is_open = True
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def look_up(self, name: str) -> Future:
        future = Future()
        try:
            found = [each.alias_of or each.name for each in self._check(name)]
            entries = tuple(AdapterEntry(name=n, path=Path(n), signature=()) for n in found)
            parts = parse_blend(name)
            blended = parts and Blend(entries, tuple(weight for _, weight in parts))
            future.set_result(blended or entries[0])
        except UnknownModelError as error:
            future.set_exception(error)
        return future

    def check_entry(self, tenant: str, *, own: int, others: int) -> None:
        if self.refuse_entry is not None:
            self.refuse_entry(tenant, own, others)

    def submit(self, request: Request, on_event: Callable[[Event], None], adapter=None) -> None:
        with self._changed:
            if not self._is_open:
                raise EngineStoppedError("the engine is shutting down")
            if request.adapter is not None and adapter is None:
                self._check(request.adapter)
            if (error := self.refuse(request)) is not None:
                raise error
            if len(self._running) >= self.max_waiting:
                raise OverloadedError("too many requests are waiting", retry_after=2.5)
            self.submitted.append(request)
            self._running[request.request_id] = _Running(request, on_event, self.script(request))
            self._schedule(request.request_id)

    def cancel(self, request_id: str) -> None:
        with self._changed:
            self.cancelled.append(request_id)
            self._finish(request_id, "cancelled")

    def adapters(self) -> list[AdapterStatus]:
        return list(self._adapters)

    def adapter(self, name: str) -> AdapterStatus:
        found = self._check(name)
        for each in found:
            if each.state == "refused":
                raise UnsupportedAdapterError(f"adapter '{each.name}': {each.problem}")
        return found[0] if found[0].name == name else replace(found[0], name=name)

    def _check(self, name: str) -> list[AdapterStatus]:
        known = {adapter.name: adapter for adapter in self._adapters}
        for part in adapters_in(name):
            if part not in known:
                raise UnknownModelError(unknown_name_message("model", part, known))
        return [known[part] for part in adapters_in(name)]

    def load_adapter(self, name, folder=None, *, replace=False, pin=False):
        self.controls.append(("load", name, folder, replace, pin))
        return self._control(AdapterStatus(name=name, state="host", pinned=pin))

    def unload_adapter(self, name):
        self.controls.append(("unload", name))
        return self._control(None)

    def pin_adapter(self, name, *, pinned):
        self.controls.append(("pin", name, pinned))
        return self._control(AdapterStatus(name=name, state="resident", pinned=pinned))

    def _control(self, result):
        if isinstance(self.control_answer, Exception):
            raise self.control_answer
        future = Future()
        if isinstance(self.control_result, Exception):
            future.set_exception(self.control_result)
        else:
            future.set_result(result)
        return future

    def stats(self) -> EngineStats:
        with self._changed:
            return EngineStats(
                num_running=len(self._running),
                num_waiting=0,
                blocks_total=100,
                blocks_free=60,
                blocks_kv=30,
                blocks_adapters=10,
                block_bytes=4096,
                adapters_resident=1,
                adapters_by_state=dict(Counter(each.state for each in self._adapters)),
                resident_bytes={
                    each.name: each.num_bytes for each in self._adapters if each.state == "resident"
                },
                adapter_loads=2,
                adapter_evictions=1,
                preemptions=0,
                steps=7,
                prompt_tokens=sum(len(r.prompt_token_ids) for r in self.submitted),
                generated_tokens=11,
                finished=dict(self.reasons),
            )

    def healthy(self) -> bool:
        return self._is_open

    def shutdown(self, *, drain_seconds: float = 0.0) -> None:
        deadline = time.monotonic() + drain_seconds
        with self._changed:
            self._is_open = False
            while self._running and time.monotonic() < deadline:
                self._changed.wait(0.01)
            for request_id in list(self._running):
                self._finish(request_id, "cancelled")
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(5)

    def wait_idle(self, seconds: float = 5.0) -> None:
        """Wait until nothing runs; fail the test otherwise."""
        deadline = time.monotonic() + seconds
        while self._running:
            assert time.monotonic() < deadline, f"{len(self._running)} requests still run"
            time.sleep(0.005)

    def _loop(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                wait = self._queue[0][0] - time.monotonic() if self._queue else 60.0
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                request_id = heapq.heappop(self._queue)[2]
                if request_id in self._running:
                    self._step(request_id)

    def _step(self, request_id: str) -> None:
        running = self._running[request_id]
        sampling = running.request.sampling
        if sampling.prompt_logprobs is not None and not running.is_prompt_told:
            running.is_prompt_told = True
            running.on_event(_prompt(running.request))
        if running.count == sampling.max_tokens:
            self._finish(request_id, "length")
            return
        if running.count == len(running.pieces):
            self._finish(request_id, "stop")
            return
        piece = running.pieces[running.count]
        if isinstance(piece, GossamerError):
            self._end(request_id, "failed", Failed(request_id=request_id, error=piece))
            return
        running.count += 1
        token = self._special.get(piece, running.count)
        running.on_event(_tokens(request_id, piece, token, sampling.logprobs))
        self._schedule(request_id)

    def _schedule(self, request_id: str) -> None:
        running = self._running[request_id]
        heapq.heappush(self._queue, (time.monotonic() + self.delay, running.count, request_id))
        self._changed.notify_all()

    def _finish(self, request_id: str, reason) -> None:
        if request_id not in self._running:
            return
        running = self._running[request_id]
        event = Finished(
            request_id=request_id,
            finish_reason=reason,
            prompt_tokens=len(running.request.prompt_token_ids),
            completion_tokens=running.count,
        )
        self._end(request_id, reason, event)

    def _end(self, request_id: str, reason: str, event: Event) -> None:
        running = self._running.pop(request_id)
        self.finals[request_id] += 1
        self.reasons[reason] += 1
        running.on_event(event)
        self._changed.notify_all()


class _Running:
    def __init__(self, request: Request, on_event, pieces) -> None:
        self.request = request
        self.on_event = on_event
        self.pieces = list(pieces)
        self.count = 0
        self.is_prompt_told = False


def _prompt(request: Request) -> Tokens:
    """Token number i of a prompt has the log-probability -i, and <0>, <1> ... are likelier."""
    count = request.sampling.prompt_logprobs
    top = tuple((1000 + k, f"<{k}>", -0.1 - k) for k in range(count))
    return Tokens(
        request_id=request.request_id,
        token_ids=(),
        text="",
        prompt_logprobs=(
            None,
            *(
                TokenLogprob(token_id=token, text=f"t{token}", logprob=-number, top=top, rank=7)
                for number, token in enumerate(request.prompt_token_ids[1:], start=1)
            ),
        ),
    )


def _tokens(request_id: str, piece: str, token_id: int, num_logprobs: int | None) -> Tokens:
    logprobs = None
    if num_logprobs is not None:
        others = [(1000 + k, f"<{k}>", -1.0 - k) for k in range(num_logprobs)]
        logprobs = (TokenLogprob(token_id=token_id, text=piece, logprob=-0.5, top=tuple(others)),)
    return Tokens(request_id=request_id, token_ids=(token_id,), text=piece, logprobs=logprobs)
