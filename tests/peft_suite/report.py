"""The tables of what `plugin.py` wrote down, as Markdown."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from expected import DEFECTS, NATURE, find
from rows import ROWS

FAMILIES = {
    "generate": "generate",
    "delete, unload": "delete|unload",
    "disable": "disable",
    "merge": "merge",
    "convert": "lora_conversion",
    "several adapters": "active_adapter|set_adapter|multiple_active|selected_adapters|substring|"
    "mixed_adapter|weighted|adding_multiple",
    "train": "training|only_params|requires_grad|gradient_checkpointing",
    "save, load": "save_|load_|inference_safetensors|parameters_after|fsdp|pickle|roundtrip|"
    "state_dict",
    "forward, types": "forward|dtype|half|fp16|device_map|input_embeds|finite",
    "create": "attributes_parametrized|adapter_name|in_features|prepare_for_training|"
    "config_construct",
}
"""Name of a family: pattern in the names of its tests; the first that fits counts."""
COLUMNS = (
    "create", "save, load", "merge", "several adapters", "delete, unload", "disable", "train",
    "forward, types", "generate", "convert", "config", "other",
)  # fmt: skip
Record = dict[str, Any]


def tables(results: Path) -> tuple[str, int]:
    """Return the report and the number of failures that are not expected."""
    records = list(_read(results))
    for record in records:
        if record["outcome"] == "failed":
            record["nature"] = find(NATURE, record)
            if record["nature"]:
                record["outcome"] = "by nature"
            else:
                record["defect"] = find(DEFECTS, record)
    left = [r for r in records if r["outcome"] == "failed" and not r["defect"]]
    versions = ", ".join(f"{name} {version(name)}" for name in ("peft", "transformers", "torch"))
    parts = [
        f"Passed of those that ran, with {versions}; n: not possible by the method's nature; bold: "
        "something failed.",
        _table(records, _file),
        _table(records, _family),
        _list("By nature", records, "nature"),
        _list("Known defects", records, "defect"),
        _unexpected(left),
    ]
    return "\n\n".join(part for part in parts if part) + "\n", len(left)


def _read(path: Path) -> Iterator[Record]:
    last = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        last[record["file"], record["id"]] = record
    yield from last.values()


def _file(record: Record) -> str:
    return str(record["file"]).removeprefix("test_")


def _family(record: Record) -> str:
    if record["file"] == "test_config":
        return "config"
    fitting = (name for name, words in FAMILIES.items() if re.search(words, record["test"]))
    return next(fitting, "other")


def _table(records: list[Record], column_of: Any) -> str:
    """A row for each method, a column for what `column_of` calls each test."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for record in records:
        for column in (column_of(record), "all"):
            counts[record["method"], column][record["outcome"]] += 1
    methods = [name for name in ROWS if (name, "all") in counts]
    methods += sorted({method for method, _ in counts} - set(methods))
    found = {column for _, column in counts} - {"all"}
    columns = [c for c in COLUMNS if c in found] + sorted(found - set(COLUMNS)) + ["all"]
    lines = [
        "| method | " + " | ".join(columns) + " | skipped by PEFT |",
        "| --- |" + " --- |" * (len(columns) + 1),
    ]
    for method in methods:
        cells = [_cell(counts[method, column]) for column in columns]
        skipped = counts[method, "all"]["skipped"]
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {skipped} |")
    return "\n".join(lines)


def _cell(counts: Counter[str]) -> str:
    ran = counts["passed"] + counts["failed"]
    text = f"{counts['passed']}/{ran}" if ran else "-"
    if counts["by nature"]:
        text += f" ({counts['by nature']} n)"
    return f"**{text}**" if counts["failed"] else text


def _list(title: str, records: list[Record], reason: str) -> str:
    found = Counter(record[reason] for record in records if record.get(reason))
    return (
        title + "\n\n" + "\n".join(f"- {n} x {why}" for why, n in found.most_common())
        if found
        else ""
    )


def _unexpected(records: list[Record]) -> str:
    """Failures that no list has, those of one cause together."""
    groups = defaultdict(list)
    for r in records:
        message = f"{r['error']}: {r['message'].partition(chr(10))[0][:110]}"
        groups[r["test"], message, r["where"], r.get("test_line", "")[:110]].append(r)
    lines = []
    for (test, message, where, line), found in sorted(groups.items(), key=lambda g: -len(g[1])):
        methods = dict(Counter(r["method"] for r in found))
        models = dict(Counter(r["model"].rpartition("/")[2] for r in found))
        lines.append(f"- {len(found)} x `{test}` {methods} {models}: {message} [{where}] `{line}`")
    return "Unexpected failures\n\n" + "\n".join(lines) if lines else ""
