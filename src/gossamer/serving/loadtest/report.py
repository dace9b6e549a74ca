"""What a load test leaves behind: a table for people, all figures as JSON, and a picture."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gossamer.serving.loadtest.client import ClientSettings
from gossamer.serving.loadtest.outcomes import LoadTestSummary, Sample
from gossamer.serving.loadtest.workload import Workload


def table(summary: LoadTestSummary, slo: float) -> list[tuple[str, str]]:
    """List the names and values of a summary for people."""
    rows = [
        ("requests", f"{summary.requests} to {summary.models} models in {summary.seconds:.1f} s"),
        (
            "finished, refused, failed",
            f"{summary.finished}, {summary.refused}, {summary.failed}",
        ),
        (
            "throughput",
            f"{summary.requests_per_second:.2f} requests/s, "
            f"{summary.output_tokens_per_second:.1f} new tokens/s, "
            f"{summary.total_tokens_per_second:.1f} tokens/s with prompts",
        ),
    ]
    for name, value in (
        ("first token", summary.first_token),
        ("between tokens", summary.between_tokens),
        ("per new token, in all", summary.per_token),
        ("whole answer", summary.total),
    ):
        if value is not None:
            cells = (f"{key} {number:.3f} s" for key, number in asdict(value).items())
            rows.append((name, ", ".join(cells)))
    rows.append((f"first token within {slo:g} s", f"{summary.attainment:.1%} of all requests"))
    rows.append(("satisfaction", f"{summary.satisfaction:.3f}"))
    return rows


def write_report(
    output: Path,
    workload: Workload,
    client: ClientSettings,
    samples: Sequence[Sample],
    summary: LoadTestSummary,
) -> None:
    """Write `result.json`, `table.md` and `load.png` into the folder `output`.

    The picture needs matplotlib: raises `ImportError` without.
    """
    from gossamer.serving.loadtest.plot import draw

    output.mkdir(parents=True, exist_ok=True)
    content = {
        "workload": workload.model_dump(),
        "client": client.model_dump(),
        "summary": asdict(summary),
        "samples": [asdict(sample) for sample in samples],
    }
    (output / "result.json").write_text(json.dumps(content, indent=1) + "\n")
    lines = ["| what | figure |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in table(summary, client.slo)]
    (output / "table.md").write_text("\n".join(lines) + "\n")
    title = f"{workload.rate:g} requests/s to {workload.adapters} models, cv {workload.cv:g}"
    draw(samples, client.slo, output / "load.png", title=title)
