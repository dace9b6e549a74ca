"""Parses `--methods`, such as `lora dora:rank=8,alpha=16`, into entries.

Entries are separated by spaces or commas. An entry is a method's name, or `NAME:SETTING=VALUE`,
after which commas may add further `SETTING=VALUE`. A part with no `=` begins an entry, and so does
one with a `:` before its `=`; any other part is a setting of the entry before it. Commas inside
brackets and quotes belong to the value. An entry with several learning rates, as in
`lora:learning_rate=[1e-4,1e-3]`, is one entry for each of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gossamer.errors import SettingError, unknown_name_message
from gossamer.methods import parse_settings, settings_type
from gossamer.settings import parse_assignments

NONE = "none"
"""An entry that trains nothing: only the base model is scored."""
RUN_SETTINGS = ("learning_rate", "scheduler", "warmup", "weight_decay", "max_grad_norm")
"""Settings of the run that an entry may have; the others are the same for all entries."""
RATE = "learning_rate"
"""The one of them that may have several values."""
_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of `--methods`: a method with settings."""

    label: str
    """The entry as the user wrote it: `lora:rank=4`."""
    method: str
    given: dict[str, Any]
    """Settings of the method that the entry names."""
    run: dict[str, Any]
    """Settings of the run that the entry names."""
    rates_of: str | None = None
    """What the user wrote, where that gave several learning rates and this entry is one of them."""

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the method, defaults included."""
        return parse_settings(self.method, self.given).model_dump(mode="json")

    @property
    def folder(self) -> str:
        """A name for a folder, e.g. `lora-rank-4`."""
        return _folder_name(self.label)

    @property
    def timing_folder(self) -> str:
        """A name for the folder of its speed, which all rates share."""
        return _folder_name(self.rates_of or self.label)


def _folder_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", label).strip("-.")[:100]


def parse_entries(texts: Sequence[str]) -> list[Entry]:
    """The entries of `texts`, in order; `none` leaves none.

    Raises `SettingError` or `UnknownNameError` for an unknown method or setting, an impossible
    value, or two entries that are the same.
    """
    parts = [group for text in texts for group in _groups(text)]
    if not parts:
        raise SettingError("--methods is empty; name methods as in --methods lora,dora,full")
    entries = [
        entry for name, settings in parts if name != NONE for entry in _entries(name, settings)
    ]
    known: list[tuple[Any, ...]] = []
    folders: dict[str, Entry] = {}
    for entry in entries:
        meaning = (entry.method, entry.settings, entry.run)
        if meaning in known:
            first = entries[known.index(meaning)].label
            raise SettingError(
                f"--methods: '{entry.label}' is the same as '{first}'; leave one of them out"
            )
        known.append(meaning)
        other = folders.setdefault(entry.folder.casefold(), entry)
        if other is not entry:
            raise SettingError(
                f"--methods: '{entry.label}' and '{other.label}' would share the folder "
                f"'{entry.folder}'; write one of them in another order"
            )
    return entries


def _entries(name: str, assignments: list[str]) -> list[Entry]:
    """The entries that one written entry stands for: itself, or one for each learning rate."""
    entry = _entry(name, assignments)
    rates = entry.run.get(RATE)
    if not isinstance(rates, list):
        return [entry]
    if len(rates) < 2:
        raise SettingError(f"--methods: '{entry.label}': give {RATE} a number, or several rates")
    others = [text for text in assignments if text.partition("=")[0].strip() != RATE]
    single = [_entry(name, [*others, f"{RATE}={rate}"]) for rate in rates]
    return [replace(each, rates_of=entry.label) for each in single]


def _groups(text: str) -> list[tuple[str, list[str]]]:
    """Split one argument into entries: (name, its `SETTING=VALUE`s)."""
    groups: list[tuple[str, list[str]]] = []
    for part in _parts(text):
        name, colon, rest = part.partition(":")
        if "=" in part and ("=" in name or not colon):
            if not groups:
                raise SettingError(
                    f"--methods: '{part}' has no method before it; write METHOD:{part}"
                )
            groups[-1][1].append(part)
            continue
        if colon and not rest.strip():
            raise SettingError(f"--methods: '{part}' has no setting after the colon")
        groups.append((name.strip(), [rest] if colon else []))
    return groups


def _parts(text: str) -> list[str]:
    """Cut `text` at commas and spaces that are outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _OPEN:
            depth += 1
        elif letter in _CLOSE:
            depth -= 1
        elif depth == 0 and (letter == "," or letter.isspace()):
            parts.append("")
            continue
        parts[-1] += letter
    if depth or quote:
        raise SettingError(f"--methods: '{text}' has a bracket or a quote that does not close")
    return [part for part in parts if part]


def _entry(name: str, assignments: list[str]) -> Entry:
    label = f"{name}:{','.join(assignments)}" if assignments else name
    fields = settings_type(name).model_fields
    values = parse_assignments(assignments, where=f"--methods: '{label}'")
    if len(values) < len(assignments):
        raise SettingError(f"--methods: '{label}' gives a setting twice")
    run = {key: value for key, value in values.items() if key in RUN_SETTINGS}
    given = {key: value for key, value in values.items() if key not in run}
    for key in given:
        if key not in fields:
            known = [*RUN_SETTINGS, *fields]
            raise SettingError(
                f"--methods: '{label}': {unknown_name_message('setting', key, known)}"
            )
    parse_settings(name, given)
    return Entry(label=label, method=name, given=given, run=run)
