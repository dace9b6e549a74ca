"""The part of `/metrics` that is counted by tenant."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gossamer.serving.core.stats import TenantStats

GAUGES = (
    ("tenant_requests_running", "num_running", "Requests that have a place in the batch"),
    ("tenant_requests_waiting", "num_waiting", "Requests in the queue"),
)
COUNTERS = (
    ("tenant_prompt_tokens", "prompt_tokens", "Prompt tokens of requests that were started"),
    ("tenant_generated_tokens", "generated_tokens", "Tokens generated"),
    ("tenant_first_tokens", "first_tokens", "Requests that got a first token"),
    (
        "tenant_first_tokens_in_time",
        "in_time",
        "Of these, those that got it within `first_token_slo`; only if it is set",
    ),
    (
        "tenant_satisfaction",
        "satisfaction",
        "Sum over these of max(0, 1 - (seconds / first_token_slo)^2); only if it is set",
    ),
)
REFUSED = (
    "tenant_requests_refused",
    "Requests refused with status 429, by `reason`: queue, quota or deadline",
)


def tenant_metrics(tenants: Iterable[TenantStats]) -> Iterable[Metric]:
    """Make a family for each figure, with a sample for each tenant."""
    tenants = list(tenants)
    for name, field, text in GAUGES:
        gauge = GaugeMetricFamily(f"gossamer_{name}", text, labels=["tenant"])
        _fill(gauge, tenants, field)
        yield gauge
    for name, field, text in COUNTERS:
        counter = CounterMetricFamily(f"gossamer_{name}", text, labels=["tenant"])
        _fill(counter, tenants, field)
        yield counter
    name, text = REFUSED
    refused = CounterMetricFamily(f"gossamer_{name}", text, labels=["tenant", "reason"])
    for tenant in tenants:
        for reason, count in tenant.refused.items():
            refused.add_metric([tenant.name, reason], count)
    yield refused


def _fill(
    family: GaugeMetricFamily | CounterMetricFamily, tenants: list[TenantStats], field: str
) -> None:
    for tenant in tenants:
        value = getattr(tenant, field)
        if value is not None:
            family.add_metric([tenant.name], value)
