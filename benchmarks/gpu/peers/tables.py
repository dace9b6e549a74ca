"""The peers' report as tables in Markdown."""

from typing import Any


def as_markdown(report: dict[str, Any]) -> str:
    """Return both tables with a heading that says what was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return "\n".join(
        [
            f"# LoRA kernels of other servers beside ours (Triton {report['triton']}, no GPU)",
            "",
            f"{versions}. {report['licences']}. Default settings of each; Llama-3-8B's shapes.",
            "",
            "## Bytes per token and layer group, counted in the interpreter",
            "",
            "Sectors of 32 bytes, each once. Least: the adapters' own rows. Scratch: between the "
            "launches; atomics: additions to it, each counted.",
            "",
            *_bytes(report),
            "",
            "## Launches and machine code: 64 tokens, 64 adapters, bfloat16",
            "",
            *_code(report),
        ]
    )


def _bytes(report: dict[str, Any]) -> list[str]:
    """A row for each work, group and implementation, and one for the sum of the groups."""
    names = [
        "work", "group", "kernels of", "rows", "x least", "scratch read", "scratch written",
        "atomics", "metadata", "x, y", "x asked", "error",
    ]  # fmt: skip
    lines = [names, ["---"] * len(names)]
    totals: dict[tuple[str, str], list[float]] = {}
    for row in report["counted"]:
        found = row["bytes"]

        def of(kinds: tuple[str, ...], how: str, found: dict[str, Any] = found) -> float:
            return sum(found[kind][how] for kind in kinds if kind in found)

        between = ("scratch", "other")
        numbers = [
            of(("rows",), "read"), row["least_row_bytes"], of(between, "read"),
            of(between, "written"), of(between, "asked_added"), of(("metadata",), "read"),
            of(("x", "y"), "read") + of(("y",), "written"), of(("x",), "asked_read"),
        ]  # fmt: skip
        key = row["work"], row["implementation"]
        totals[key] = [a + b for a, b in zip(totals.get(key, [0] * 8), numbers, strict=True)]
        lines.append([row["work"], row["group"], row["implementation"], *_numbers(numbers)])
        lines[-1].append(f"{row['error']:.1e}")
    for (work, implementation), numbers in totals.items():
        lines.append([work, "**layer**", implementation, *_numbers(numbers), ""])
    return _lines(lines)


def _numbers(numbers: list[float]) -> list[str]:
    rows, least, *rest = numbers
    return [f"{rows:,.0f}", f"{rows / least:.3f}", *(f"{n:,.0f}" for n in rest)]


def _code(report: dict[str, Any]) -> list[str]:
    """A row for each launch."""
    names = [
        "work", "group", "kernels of", "sm", "launch", "programs", "registers", "spills", "shared",
        "HMMA", "HGMMA", "atomics", "loads by bytes",
    ]  # fmt: skip
    lines = [names, ["---"] * len(names)]
    for row in report["compiled"]:
        code = row["code"] or {}
        loads = sorted(
            code.get("loads", {}).items(), key=lambda load: -int(load[0].rpartition(".")[2])
        )
        grid = "x".join(map(str, row["grid"])) or f"clears {row['cleared_bytes']:,} bytes"
        lines.append(
            [row["work"], row["group"], row["implementation"], row["arch"], row["name"], grid]
            + [
                code.get(k, "")
                for k in ("registers", "spills", "shared", "HMMA", "HGMMA", "atomics")
            ]
            + [", ".join(f"{kind}: {count}" for kind, count in loads)]
        )
    return _lines(lines)


def _lines(rows: list[list[Any]]) -> list[str]:
    return ["| " + " | ".join(map(str, row)) + " |" for row in rows]
