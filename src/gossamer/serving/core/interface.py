"""Says what the HTTP layer and the offline class know of an engine, without importing torch."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

from gossamer.serving.core.adapter import AnyAdapter
from gossamer.serving.core.messages import Event, Request, StructuredOutputs
from gossamer.serving.core.stats import (
    AdapterStatus,
    EngineStats,
)


class EngineInterface(Protocol):
    """Stands for a running engine. Any thread may call any method, and each returns at once."""

    @property
    def model_name(self) -> str:
        """Return the name of the base model, as clients give it in `model`."""

    @property
    def tokenizer(self) -> Any:
        """Return the base model's Hugging Face tokenizer (`prompts.PromptEncoder` uses it)."""

    @property
    def special_tokens(self) -> str:
        """Return where the text of special tokens counts (`ServeSettings.special_tokens`)."""

    @property
    def max_context(self) -> int:
        """Return how many prompt and new tokens a request may have together."""

    def look_up(self, name: str) -> "Future[AnyAdapter]":
        """Find the adapter `name`, or the mixture of adapters (its `parts`), for `submit`.

        Looks at files, on a thread of the engine's own: a disk may hang, and the caller's thread
        does not wait. The future raises `UnknownModelError`, `RequestError` for a mixture that
        makes no sense, the reason why an adapter is refused, or `AdapterReadError` (try again).
        """

    def check_entry(self, tenant: str, *, own: int, others: int) -> None:
        """Raise what `submit` would raise for a small request of `tenant` that comes now.

        `own` requests of the tenant, and `others` in all, are on their way to `submit` and count as
        if they were here. Counts nothing itself. Raises `OverloadedError` (queue full),
        `QuotaError`, `EngineStoppedError`.
        """

    def submit(
        self,
        request: Request,
        on_event: Callable[[Event], None],
        adapter: AnyAdapter | None = None,
    ) -> None:
        """Queue `request`; its events go to `on_event`, called from one thread of the engine's own.

        All requests share that thread: a receiver that keeps it waiting stops the engine in time.

        `adapter` is what `look_up` gave for `request.adapter`; not given, it is looked up here,
        which may wait for a disk.

        Raises instead, and then sends no event: `UnknownModelError` (no such adapter),
        `RequestError` (prompt too long or empty, token id out of range), `UnsupportedAdapterError`
        and other `AdapterError`s known at once, `CapacityError` (does not fit even alone),
        `OverloadedError` (queue full), `QuotaError`, `EngineStoppedError`. What is found out later
        (an adapter that proves damaged while loading, a first token that cannot come in the
        promised time) arrives as a `Failed` event.
        """

    def cancel(self, request_id: str) -> None:
        """Stop a request and free its memory; it ends with `Finished(finish_reason="cancelled")`.

        Does nothing if the request has ended or is unknown.
        """

    def adapters(self) -> list[AdapterStatus]:
        """List all adapters that can be named now, those that appeared since the start included.

        Raises `AdapterReadError` if the disk does not answer.
        """

    def adapter(self, name: str) -> AdapterStatus:
        """Show the adapter `name`, or the mixture that a request would get under this name.

        Raises what `submit` raises for a request that names it.
        """

    def load_adapter(
        self, name: str, folder: str | None = None, *, replace: bool = False, pin: bool = False
    ) -> "Future[AdapterStatus]":
        """Read and check an adapter now and serve it as `name`.

        `folder` is a path below one of the server's adapter folders; None: the adapter that is
        found there under `name`, which may have been unloaded before. `replace`: even if `name` is
        another adapter now, whose accepted requests end with it. `pin`: place it and keep it.

        Raises `RequestError` for a name or a path that is not allowed, `AdapterError`s for a folder
        without an adapter; the future those of reading it, `UnknownModelError`, `RequestError` for
        a name that is taken, or `CapacityError` for a pin that leaves too little memory.
        """

    def unload_adapter(self, name: str) -> "Future[None]":
        """Have new requests not find `name`; done when accepted ones have ended.

        The future raises `UnknownModelError`.
        """

    def pin_adapter(self, name: str, *, pinned: bool) -> "Future[AdapterStatus]":
        """Place an adapter in the pool and keep it there, or no longer.

        The future raises as `load_adapter`'s.
        """

    def stats(self) -> EngineStats:
        """Take a snapshot of all figures."""

    def healthy(self) -> bool:
        """Tell whether the engine's thread lives and is not shutting down."""

    def shutdown(self, *, drain_seconds: float = 0.0) -> None:
        """Refuse new requests, let running ones end for so long, cancel the rest, stop the thread.

        Blocks until done. Each request still gets its final event.
        """


@runtime_checkable
class PreparingEngine(Protocol):
    """An engine that compiles the forms of answers itself, which may take seconds.

    What is not prepared is compiled in `submit`, which waits for it then.
    """

    def prepare(self, form: StructuredOutputs) -> "Future[object]":
        """Compile `form` for `submit`, which finds it as long as the future is held.

        The future raises what `submit` would raise for the form: `RequestError`.
        """


@runtime_checkable
class HoldingEngine(Protocol):
    """An engine whose adapters can be unloaded between `look_up` and `submit`."""

    def hold(self, adapter: AnyAdapter) -> Callable[[], None]:
        """Let an unload of `adapter`, which `look_up` gave, wait for a call that will submit it.

        Call what is returned once, from any thread, when all requests of the call have been
        submitted, or none will be. An adapter that was unloaded before stays unloaded.
        """
