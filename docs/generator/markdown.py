"""Pieces of Markdown."""

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells may hold anything but are put on one line."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def one_line(text: str | None) -> str:
    """`text` with all runs of white space as one space."""
    return " ".join((text or "").split())


def prose(docstring: str | None) -> str:
    """A cleaned docstring as Markdown: what is indented, or looks like a command, is code."""
    blocks = re.split(r"\n\s*\n", (docstring or "").strip("\n"))
    return "\n\n".join(_fenced(block) if _is_code(block) else block for block in blocks)


def _is_code(block: str) -> bool:
    first = block.splitlines()[0] if block else ""
    return first.startswith(("    ", ">>> ", "gossamer ", "curl "))


def _fenced(block: str) -> str:
    return f"```\n{block}\n```"


def short_names(text: str) -> str:
    """Annotations as text, without the modules in which their classes live."""
    text = re.sub(r"<class '([^']+)'>", r"\1", text)
    return re.sub(r"\b(?:[a-z_]+\.)+([A-Z]\w*)", r"\1", text.replace("'", ""))


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")
