"""The table of methods."""

import inspect

from generator.markdown import prose, table
from generator.settings import fields
from gossamer.methods import registry
from gossamer.methods.common.learning_rate import NARROW, WIDE, DefaultRate


def page() -> str:
    """docs/reference/methods.md."""
    methods = [registry.find(name) for name in registry.names()]
    rows = [
        (
            f"[`{m.name}`](#{m.name})",
            registry.summary(m.name),
            m.kind,
            _rates(registry.default_rate(m.name)),
            f"`{m.extra}`" if m.extra else "",
        )
        for m in methods
    ]
    head = ["method", "what it is", "kind", "learning rate", "extra to install"]
    parts = [
        "# Methods",
        "`gossamer tune --method NAME --set SETTING=VALUE`. The kind says what the result does at"
        " inference; the learning rate is the default, for hidden sizes up to"
        f" {NARROW} – from {WIDE} on.",
        table(head, rows),
    ]
    for m in methods:
        rate = registry.default_rate(m.name)
        parts += [f"## {m.name}", prose(inspect.getdoc(m))]
        parts += [f"Default learning rate: {rate}. Source: {rate.source}.", fields(m.settings_type)]
    return "\n\n".join(parts)


def _rates(rate: DefaultRate) -> str:
    """The anchors of a default rate, as in 0.001 – 0.0002; one figure if they are the same."""
    ends = dict.fromkeys((f"{rate.narrow:g}", f"{rate.wide:g}"))
    return " – ".join(ends)
