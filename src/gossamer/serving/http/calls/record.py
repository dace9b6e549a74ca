"""The facts of one call, gathered on its way through the server. None of its words is kept."""

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request
from starlette.types import Scope

from gossamer.serving.core.messages import Event, Finished, Tokens


@dataclass(slots=True)
class CallRecord:
    """One call; what it has not come to is None. Moments are those of `time.perf_counter`."""

    request_id: str
    method: str
    headers: dict[str, str] = field(default_factory=dict)
    """The headers by which a caller's trace goes on: traceparent and tracestate."""
    began: float = field(default_factory=time.perf_counter)
    began_ns: int = field(default_factory=time.time_ns)
    """The time of the beginning, in nanoseconds since 1970."""
    route: str | None = None
    """The template of the route; None: there is no such route."""
    status: int | None = None
    tenant: str | None = None
    model: str | None = None
    """The base model, adapter or blend that was asked for."""
    is_streamed: bool = False
    choices: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    """Tokens of the prompts whose keys and values were known already."""
    completion_tokens: int = 0
    finish_reasons: dict[int, str] = field(default_factory=dict)
    """How choices have ended, by their number."""
    submitted: float | None = None
    """When the engine got its requests: the body has been read and encoded."""
    first_token: float | None = None
    ended: float | None = None

    def saw(self, index: int, event: Event, moment: float) -> None:
        """Note that choice `index` had `event`."""
        if isinstance(event, Tokens):
            if self.first_token is None and event.token_ids:
                self.first_token = moment
            self.completion_tokens += len(event.token_ids)
        elif isinstance(event, Finished):
            self.finish_reasons[index] = event.finish_reason
            self.cached_tokens += event.cached_tokens
        else:
            self.finish_reasons[index] = "error"

    def end(self, scope: Scope, route: str | None, status: int) -> None:
        """Note that the call is over."""
        caller = scope.get("state", {}).get("caller")
        self.tenant = None if caller is None else caller.tenant
        self.route, self.status, self.ended = route, status, time.perf_counter()

    def seconds(self, moment: float | None) -> float | None:
        """From the beginning to `moment`."""
        return None if moment is None else round(moment - self.began, 6)

    def as_line(self) -> dict[str, Any]:
        """What a log says of it, seconds being those since the call began."""
        seconds = {
            "submitted": self.seconds(self.submitted),
            "first_token": self.seconds(self.first_token),
            "ended": self.seconds(self.ended),
        }
        return {
            "time": round(self.began_ns / 1e9, 3),
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "tenant": self.tenant,
            "model": self.model,
            "stream": self.is_streamed,
            "choices": self.choices,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "finish_reasons": [self.finish_reasons[n] for n in sorted(self.finish_reasons)],
            "seconds": {name: value for name, value in seconds.items() if value is not None},
        }


class CallSink(Protocol):
    """Is told of every call when it is over."""

    def tell(self, record: CallRecord) -> None:
        """Take note of a call; on the event loop, so at once."""

    def close(self) -> None:
        """Write what is left, and end."""


def record_of(http: Request) -> CallRecord:
    """Return the record of the call."""
    record: CallRecord = http.state.call
    return record
