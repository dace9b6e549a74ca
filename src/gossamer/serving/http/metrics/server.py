"""The figures of `/metrics`, in Prometheus' text format: a registry per app, nothing global."""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gossamer.serving.core.interface import EngineInterface
from gossamer.serving.core.messages import Event, Tokens
from gossamer.serving.core.stats import EngineStats
from gossamer.serving.http.calls.record import CallRecord
from gossamer.serving.http.metrics.memory import (
    adapter_metrics,
    grammar_metrics,
    memory_metrics,
)
from gossamer.serving.http.metrics.routing import routing_metrics
from gossamer.serving.http.metrics.tenants import tenant_metrics
from gossamer.serving.http.transport.connections import Connections

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

GAUGES = (
    ("requests_running", "num_running", "Requests that have a place in the batch"),
    ("requests_waiting", "num_waiting", "Requests in the queue"),
    ("blocks", "blocks_total", "Blocks of the pool"),
    ("blocks_free", "blocks_free", "Blocks that are free"),
    ("blocks_kv", "blocks_kv", "Blocks that hold keys and values"),
    ("blocks_adapters", "blocks_adapters", "Blocks that hold adapter weights"),
    ("block_bytes", "block_bytes", "Bytes of a block"),
)
COUNTERS = (
    ("adapter_loads", "adapter_loads", "Adapters read into the pool"),
    ("adapter_evictions", "adapter_evictions", "Adapters evicted from the pool"),
    ("adapter_merges", "adapter_merges", "Copies of the base weights made with an adapter merged"),
    ("steps_merged", "merged_steps", "Steps that ran on merged weights"),
    ("preemptions", "preemptions", "Requests put back for want of blocks"),
    ("steps", "steps", "Steps of the batch"),
    ("prompt_tokens", "prompt_tokens", "Prompt tokens computed"),
    ("generated_tokens", "generated_tokens", "Tokens generated"),
)

MERGED = (
    "gossamer_adapter_merged",
    "1 for the adapter that is merged into a copy of the base weights; no line while there is none",
)

CONNECTIONS = ("gossamer_http_connections", "Open connections")
CONNECTIONS_CUT = (
    "gossamer_http_connections_cut",
    "Connections that the server closed, by `reason`: head, body (not sent in time), idle, write "
    "(not read in time), room (for a new one), full (no room)",
)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that the count of calls tells apart. A client may send any other word, and each would
be a time series that stays."""


class Metrics:
    """The registry of one app and what the HTTP layer itself measures."""

    def __init__(self, engine: EngineInterface) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine))
        self.http_requests = Counter(
            "gossamer_http_requests",
            "Answers by method, route and status; 499 is a client that left first",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.first_token = Histogram(
            "gossamer_time_to_first_token_seconds",
            "From the arrival of a call to the first token of a choice",
            buckets=LONG,
            registry=self.registry,
        )
        self.per_token = Histogram(
            "gossamer_time_per_output_token_seconds",
            "Between tokens of a choice, the first one left out",
            buckets=SHORT,
            registry=self.registry,
        )
        self.end_to_end = Histogram(
            "gossamer_request_seconds",
            "From the arrival of a call to the end of a choice",
            buckets=LONG,
            registry=self.registry,
        )

    def watch(self, connections: Connections) -> None:
        """Show the connections of the server."""
        self.registry.register(ConnectionCollector(connections))

    def call_timer(self, record: CallRecord | None = None) -> "CallTimer":
        """Make a stopwatch for one call, which starts now; `record` is told what it sees."""
        return CallTimer(self, record)

    def first_token_buckets(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """The histogram of times to a first token: its bounds in seconds, the last one infinite,
        and how many values since the start each has with those below it."""
        (family,) = self.first_token.collect()
        found = [each for each in family.samples if each.name.endswith("_bucket")]
        return tuple(float(each.labels["le"]) for each in found), tuple(
            int(each.value) for each in found
        )

    def count(self, method: str, route: str | None, status: int) -> None:
        """Count an answer; `route` is the template of a route, None where there is none."""
        if route is None:
            method, route = "any", "unmatched"
        elif method not in METHODS:
            method = "other"
        self.http_requests.labels(method, route, str(status)).inc()

    def text(self) -> bytes:
        """Write all figures in Prometheus' text format."""
        return generate_latest(self.registry)


class CallTimer:
    """Times the choices of one call, for the histograms."""

    def __init__(self, metrics: Metrics, record: CallRecord | None = None) -> None:
        self._metrics = metrics
        self._record = record
        self._start = time.perf_counter()
        self._last: dict[int, float] = {}

    def saw(self, index: int, event: Event, moment: float) -> None:
        """Note that choice `index` had `event` at `moment` (of `time.perf_counter`)."""
        if self._record is not None:
            self._record.saw(index, event, moment)
        if not isinstance(event, Tokens):
            self._metrics.end_to_end.observe(moment - self._start)
            return
        if event.prompt_logprobs is not None:
            return  # No token of the answer.
        last = self._last.get(index)
        self._last[index] = moment
        count = len(event.token_ids)
        if last is None:
            self._metrics.first_token.observe(moment - self._start)
        elif count:
            for _ in range(count):
                self._metrics.per_token.observe((moment - last) / count)


class ConnectionCollector(Collector):
    """Collects the connections of the server, read at each scrape."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def describe(self) -> Iterable[Metric]:
        """Describe nothing: all is told by `collect`."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Give the number of open connections, and of those that the server closed."""
        yield GaugeMetricFamily(*CONNECTIONS, value=len(self._connections))
        family = CounterMetricFamily(*CONNECTIONS_CUT, labels=["reason"])
        for reason, count in self._connections.cuts.items():
            family.add_metric([reason], count)
        yield family


class EngineCollector(Collector):
    """Collects gauges and counters of the engine, read at each scrape."""

    def __init__(self, engine: EngineInterface) -> None:
        self._engine = engine

    def describe(self) -> Iterable[Metric]:
        """Describe nothing: otherwise registering would already ask the engine."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Give all figures, from one snapshot."""
        stats = self._engine.stats()
        yield GaugeMetricFamily(
            "gossamer_engine_healthy",
            "1 while the engine runs",
            value=float(self._engine.healthy()),
        )
        for name, field, text in GAUGES:
            yield GaugeMetricFamily(f"gossamer_{name}", text, value=getattr(stats, field))
        for name, field, text in COUNTERS:
            yield CounterMetricFamily(f"gossamer_{name}", text, value=getattr(stats, field))
        yield _merged(stats)
        yield _finished(stats)
        yield from tenant_metrics(stats.tenants)
        yield from memory_metrics(stats)
        yield from adapter_metrics(stats)
        yield from grammar_metrics(stats.grammars)
        yield from routing_metrics(stats)


def _merged(stats: EngineStats) -> Metric:
    family = GaugeMetricFamily(*MERGED, labels=["adapter"])
    if stats.merged_adapter is not None:
        family.add_metric([stats.merged_adapter], 1.0)
    return family


def _finished(stats: EngineStats) -> Metric:
    family = CounterMetricFamily(
        "gossamer_requests_finished", "Requests by how they ended", labels=["reason"]
    )
    for reason, count in sorted(stats.finished.items()):
        family.add_metric([reason], count)
    return family
