"""Detects which of the five formats rows have, by the names of their columns."""

from collections.abc import Iterable
from difflib import get_close_matches

from gossamer.errors import DataError

REQUIRED: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "text": ("text",),
    "preference": ("chosen", "rejected"),
}
"""The columns that a row of each format must have."""

OPTIONAL: dict[str, tuple[str, ...]] = {
    "messages": ("tools",),
    "prompt-completion": ("tools",),
    "instruction": ("input",),
    "preference": ("prompt", "tools"),
}
"""The columns that a row of a format may have."""

_OTHER_WORDS = {
    "messages": ("conversations", "conversation", "dialog", "dialogue", "chat"),
    "prompt": ("question", "query", "input", "instruction"),
    "completion": ("answer", "response", "reply", "output", "target"),
    "instruction": ("question", "query", "prompt"),
    "output": ("answer", "response", "reply", "completion", "target"),
    "text": ("content", "document", "body"),
    "chosen": ("preferred", "accepted", "winner", "better"),
    "rejected": ("dispreferred", "refused", "loser", "worse"),
}


def detect_format(columns: Iterable[str], wanted: str, name: str) -> str:
    """Return the format of rows with `columns`: `wanted`, or if that is "auto", the detected one.

    Raises `DataError` if the columns fit none or several, with those found and those accepted.
    """
    found = list(columns)
    if wanted != "auto":
        if missing_columns(found, wanted):
            raise DataError(f"'{name}' {_unfit(found, [wanted])}")
        return wanted
    fitting = [fmt for fmt in REQUIRED if not missing_columns(found, fmt)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"'{name}' has the columns {_listed(found)}, which fit several formats; choose one "
            f"with --set data_format={' or data_format='.join(fitting)}"
        )
    raise DataError(f"'{name}' {_unfit(found, list(REQUIRED))}")


def missing_columns(found: Iterable[str], fmt: str) -> list[str]:
    """The columns that format `fmt` requires and `found` lacks."""
    present = set(found)
    return [column for column in REQUIRED[fmt] if column not in present]


def ignored_columns(found: Iterable[str], fmt: str) -> list[str]:
    """The columns of `found` that format `fmt` makes no use of, sorted."""
    return sorted(set(found) - set(REQUIRED[fmt]) - set(OPTIONAL.get(fmt, ())))


def near_column(missing: str, found: Iterable[str]) -> str | None:
    """The column of `found` that was probably meant to be called `missing`, if any."""
    plain = {column.strip().lower(): column for column in found}
    close = get_close_matches(missing, plain, n=1, cutoff=0.75)
    return plain[close[0]] if close else None


def _unfit(found: list[str], formats: list[str]) -> str:
    accepted = "; ".join(f"{' + '.join(REQUIRED[fmt])} ({fmt})" for fmt in formats)
    return f"has the columns {_listed(found)}; needed: {accepted}{_advice(found, formats)}"


def _advice(found: list[str], formats: list[str]) -> str:
    """The renaming, if any, that completes one of `formats` with the fewest changes."""
    plans = []
    for fmt in formats:
        missing = missing_columns(found, fmt)
        renames = {column: _source_of(column, found, REQUIRED[fmt]) for column in missing}
        if all(renames.values()):
            guesses = sum(near_column(column, found) is None for column in missing)
            plans.append((guesses, len(missing), renames))
    if not plans:
        return ""
    *_, renames = min(plans, key=lambda plan: plan[:2])
    said = " and ".join(f"'{old}' to '{new}'" for new, old in renames.items())
    return f". Did you mean to rename {said}?"


def _source_of(missing: str, found: list[str], required: tuple[str, ...]) -> str | None:
    free = [column for column in found if column not in required]
    near = near_column(missing, free)
    if near is not None:
        return near
    plain = {column.strip().lower(): column for column in free}
    return next((plain[word] for word in _OTHER_WORDS[missing] if word in plain), None)


def _listed(columns: list[str]) -> str:
    shown = ", ".join(repr(column) for column in columns[:20])
    return (shown or "(none)") + (", ..." if len(columns) > 20 else "")
