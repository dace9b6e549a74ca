"""The Grafana dashboard asks for metrics that exist."""

import json
import re
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gossamer.serving.core.stats import TenantStats
from gossamer.serving.http.metrics.server import Metrics

DASHBOARD = Path(__file__).parents[3] / "docs" / "dashboards" / "gossamer.json"


def exposed(engine):
    """Names and labels of all samples of /metrics."""
    metrics = Metrics(engine)
    metrics.http_requests.labels("GET", "/health", "200").inc()
    text = metrics.text().decode()
    families = list(text_string_to_metric_families(text))
    assert families
    return {sample.name: set(sample.labels) for each in families for sample in each.samples}


def test_every_metric_of_the_dashboard_exists(make_engine, monkeypatch):
    engine = make_engine()
    stats = engine.stats
    tenant = TenantStats(
        name="a",
        num_waiting=0,
        num_running=0,
        prompt_tokens=0,
        generated_tokens=0,
        first_tokens=0,
        in_time=0,
        satisfaction=0.0,
        refused={"queue": 0},
    )
    monkeypatch.setattr(engine, "stats", lambda: replace(stats(), tenants=(tenant,)))
    names = exposed(engine)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(asked) > 20
    for text in asked:
        found = re.findall(r"gossamer_\w+", text)
        assert found, text
        for name in found:
            assert name in names, f"{name} in {text}"
    for panel in panels:
        for target in panel["targets"]:
            (name, *_) = re.findall(r"gossamer_\w+", target["expr"])
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert label in names[name] | {"instance"}, f"{name} has no label {label}"


def test_any_interval_of_scraping_fills_the_panels_and_servers_can_be_told_apart():
    board = json.loads(DASHBOARD.read_text())
    assert [each["name"] for each in board["templating"]["list"]] == ["source", "job", "instance"]
    for panel in board["panels"]:
        for target in panel["targets"]:
            text, legend = target["expr"], target["legendFormat"]
            assert re.findall(r"\[([^]]*)\]", text) == ["$__rate_interval"] * text.count("rate(")
            chosen = text.count('{job=~"$job", instance=~"$instance"')
            assert chosen == len(re.findall(r"gossamer_\w+", text))
            is_sum = text.startswith(("sum(", "histogram_quantile("))
            assert is_sum or "{{instance}}" in legend


def test_places_of_panels_do_not_overlap():
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    corners = {(place["x"], place["y"]) for place in places}
    assert len(corners) == len(places)
    assert {panel["h"] for panel in places} == {8}
