"""The part of `/metrics` that routers of several servers read, under the names that vLLM uses.

Routers such as llm-d's place requests by them: how full a server is, and which adapters its
requests use now.
"""

import time
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric

from gossamer.serving.core.stats import MOST_NAMES, EngineStats

GAUGES = (
    ("vllm:num_requests_running", "Requests that have a place in the batch"),
    ("vllm:num_requests_waiting", "Requests in the queue"),
    ("vllm:kv_cache_usage_perc", "Part of the pool that is in use, 0 to 1"),
)
ADAPTERS = (
    "vllm:lora_requests_info",
    "Unix time; the labels tell which adapters requests use now (`running_lora_adapters`, "
    "`waiting_lora_adapters`, joined by commas) and how many may run at a time (`max_lora`). Each "
    "set of names is a series of its own: for routers that ask, not to be stored",
)


def routing_metrics(stats: EngineStats) -> Iterable[Metric]:
    """Make a family for each figure."""
    taken = stats.blocks_total - stats.blocks_free - stats.blocks_cached
    values = (stats.num_running, stats.num_waiting, taken / max(1, stats.blocks_total))
    for (name, text), value in zip(GAUGES, values, strict=True):
        yield GaugeMetricFamily(name, text, value=value)
    name, text = ADAPTERS
    labels = ["max_lora", "running_lora_adapters", "waiting_lora_adapters"]
    family = GaugeMetricFamily(name, text, labels=labels)
    running, waiting = _joined(stats.running_adapters), _joined(stats.waiting_adapters)
    family.add_metric([str(stats.max_running), running, waiting], time.time())
    yield family


def _joined(names: Iterable[str]) -> str:
    # A name with a comma would be read as two.
    return ",".join(sorted(name for name in names if "," not in name)[:MOST_NAMES])
