"""The table of methods."""

import inspect

from generator.markdown import prose, table
from generator.settings import fields
from gossamer.methods import registry


def page() -> str:
    """docs/reference/methods.md."""
    methods = [registry.find(name) for name in registry.names()]
    rows = [
        (
            f"[`{m.name}`](#{m.name})",
            registry.summary(m.name),
            m.kind,
            f"{m.learning_rate:g}",
            f"`{m.extra}`" if m.extra else "",
        )
        for m in methods
    ]
    head = ["method", "what it is", "kind", "learning rate", "extra to install"]
    parts = [
        "# Methods",
        "`gossamer tune --method NAME --set SETTING=VALUE`. The kind says what the result does at"
        " inference; the learning rate is the default.",
        table(head, rows),
    ]
    for m in methods:
        parts += [f"## {m.name}", prose(inspect.getdoc(m)), fields(m.settings_type)]
    return "\n\n".join(parts)
