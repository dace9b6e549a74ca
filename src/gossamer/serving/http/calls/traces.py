"""Traces for OpenTelemetry: a span for each call and its parts, sent by OTLP over HTTP.

A span is made when its call is over, with the moments that were noted on the way, so that nothing
of it is felt before. Names are those of OpenTelemetry's conventions for servers and for generative
models. Which traces are kept, and what is sent with them, is set by the variables that every
OpenTelemetry program reads (OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, ...).
"""

from collections.abc import Mapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gossamer.serving.http.calls.record import CallRecord
from gossamer.version import VERSION

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
}
"""What a route does, in the words of the conventions."""


class Traces:
    """Makes the spans of calls and sends them on a thread of its own."""

    def __init__(self, endpoint: str, *, exporter: SpanExporter | None = None) -> None:
        """`exporter`: where spans go instead of to `endpoint`."""
        resource = Resource.create({SERVICE_VERSION: VERSION})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            # The variables of the environment give no name.
            resource = resource.merge(Resource({SERVICE_NAME: "gossamer"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = exporter or OTLPSpanExporter(endpoint=endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("gossamer", VERSION)
        self._callers = TraceContextTextMapPropagator()

    def tell(self, record: CallRecord) -> None:
        """Make the spans of a call that is over, below its caller's if that has sent one."""
        route = record.route or "unmatched"
        span = self._tracer.start_span(
            f"{record.method} {route}",
            context=self._callers.extract(record.headers),
            kind=SpanKind.SERVER,
            start_time=record.began_ns,
            attributes=_attributes(record),
        )
        if record.status is not None and record.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        for name, begin, end in _parts(record):
            part = self._tracer.start_span(
                name, context=set_span_in_context(span), start_time=_ns(record, begin)
            )
            part.end(_ns(record, end))
        span.end(_ns(record, record.ended or record.began))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _attributes(record: CallRecord) -> Mapping[str, Any]:
    found: dict[str, Any] = {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "gossamer.request_id": record.request_id,
        "gossamer.tenant": record.tenant,
    }
    if record.submitted is not None:
        reasons = [record.finish_reasons[n] for n in sorted(record.finish_reasons)]
        found |= {
            "gen_ai.operation.name": OPERATIONS.get(record.route or "", "text_completion"),
            "gen_ai.provider.name": "gossamer",
            "gen_ai.request.model": record.model,
            "gen_ai.request.choice.count": record.choices,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
            "gen_ai.response.finish_reasons": reasons,
            "gen_ai.server.time_to_first_token": record.seconds(record.first_token),
        }
    return {name: value for name, value in found.items() if value is not None}


def _parts(record: CallRecord) -> list[tuple[str, float, float]]:
    """The parts of a call that came to the engine: (name, beginning, end)."""
    if record.submitted is None or record.ended is None:
        return []
    first = record.first_token
    waiting = ("wait for the first token", record.submitted, first or record.ended)
    parts = [("read and encode", record.began, record.submitted), waiting]
    return parts if first is None else [*parts, ("generate", first, record.ended)]


def _ns(record: CallRecord, moment: float) -> int:
    return record.began_ns + int((moment - record.began) * 1e9)
