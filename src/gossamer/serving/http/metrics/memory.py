"""The part of `/metrics` about adapters in memory, shared prefixes, and what steps consist of."""

from collections.abc import Iterable

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from gossamer.serving.core.stats import EngineStats, GrammarStats, HistogramStats

GAUGES = (
    ("blocks_cached", "blocks_cached", "Blocks of prompts that are not in use; free for others"),
    ("host_adapters", "adapters_host", "Adapters whose weights are in the host cache"),
    ("host_bytes", "host_bytes", "Bytes of adapter weights in the host cache"),
)
COUNTERS = (
    ("prefix_queried_tokens", "prefix_queried_tokens", "Prompt tokens looked up among prefixes"),
    ("prefix_hit_tokens", "prefix_hit_tokens", "Prompt tokens found there and not computed"),
    ("prefix_evictions", "prefix_evictions", "Blocks of prefixes given to somebody else"),
)
HITS = (
    "adapter_hits",
    "Requests by where their adapter was when they came (`place`: resident, host or disk)",
)
READING = ("adapter_read_seconds", "To read and check an adapter")
STEP_SECONDS = (
    "step_seconds",
    "Spent in steps, by `part`: build (of the batch), model, sampling",
)
STEP_ADAPTERS = ("step_adapters", "Distinct adapters in a step")
STEP_RANK = ("step_rank", "Ranks of the distinct adapters in a step together")
GRAMMARS = (
    ("asked", "Choices that asked for a form (JSON Schema, expression, choices, grammar)"),
    ("hits", "Choices whose form was compiled already"),
    ("refused", "Choices whose form cannot be kept to, or takes too long to compile"),
)
GRAMMARS_KEPT = ("grammars_kept", "Compiled forms that are kept")
COMPILING = ("grammar_compile_seconds", "To compile a form, refused ones included")
STATES = ("registered", "loading", "host", "resident", "draining", "refused")


def memory_metrics(stats: EngineStats) -> Iterable[Metric]:
    """Make a family for each figure."""
    for name, field, text in GAUGES:
        yield GaugeMetricFamily(f"gossamer_{name}", text, value=getattr(stats, field))
    for name, field, text in COUNTERS:
        yield CounterMetricFamily(f"gossamer_{name}", text, value=getattr(stats, field))
    yield _by_label(HITS, "place", {"resident": 0, "host": 0, "disk": 0, **stats.adapter_hits})
    yield _by_label(STEP_SECONDS, "part", stats.step.seconds)
    yield _histogram(READING, stats.adapter_read_seconds)
    yield _histogram(STEP_ADAPTERS, stats.step.adapters)
    yield _histogram(STEP_RANK, stats.step.rank)


def adapter_metrics(stats: EngineStats) -> Iterable[Metric]:
    """Count the adapters by state, and give the size of each resident one."""
    # States without adapters are shown as 0, so that graphs do not break off.
    tally = dict.fromkeys(STATES, 0)
    by_state = GaugeMetricFamily("gossamer_adapters", "Adapters by state", labels=["state"])
    size = GaugeMetricFamily(
        "gossamer_adapter_resident_bytes", "Bytes of a resident adapter", labels=["adapter"]
    )
    for name, num_bytes in stats.resident_bytes.items():
        size.add_metric([name], num_bytes)
    for state, count in {**tally, **stats.adapters_by_state}.items():
        by_state.add_metric([state], count)
    yield by_state
    yield size


def grammar_metrics(stats: GrammarStats) -> Iterable[Metric]:
    """Make a family for each figure of the forms that answers had to have."""
    for name, text in GRAMMARS:
        yield CounterMetricFamily(f"gossamer_grammars_{name}", text, value=getattr(stats, name))
    yield GaugeMetricFamily(f"gossamer_{GRAMMARS_KEPT[0]}", GRAMMARS_KEPT[1], value=stats.kept)
    yield _histogram(COMPILING, stats.seconds)


def _by_label(named: tuple[str, str], label: str, values: dict[str, float]) -> Metric:
    family = CounterMetricFamily(f"gossamer_{named[0]}", named[1], labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(named: tuple[str, str], stats: HistogramStats) -> Metric:
    buckets, count = [], 0
    for bound, own in zip((*stats.bounds, float("inf")), stats.counts, strict=True):
        count += own
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), count))
    family = HistogramMetricFamily(f"gossamer_{named[0]}", named[1])
    family.add_metric([], buckets=buckets, sum_value=stats.total)
    return family
