"""Who is told of calls, by the settings."""

from gossamer.extras import require
from gossamer.serving.http.calls.record import CallSink
from gossamer.serving.http.calls.request_log import RequestLog
from gossamer.serving.http.settings import HttpSettings


def sinks_of(settings: HttpSettings) -> tuple[CallSink, ...]:
    """Make what the settings ask for.

    Raises `SettingError` for a log that cannot be written, `MissingExtraError` without the packages
    that traces need.
    """
    sinks: list[CallSink] = []
    if settings.traces is not None:
        require("--traces", "otel")
        from gossamer.serving.http.calls.traces import Traces

        sinks.append(Traces(settings.traces))
    if settings.request_log is not None:
        sinks.append(RequestLog(settings.request_log))
    return tuple(sinks)
