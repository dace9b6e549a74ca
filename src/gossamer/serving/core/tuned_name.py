"""Names of fine-tuned models, as OpenAI writes them: `ft:base:owner:suffix:id`.

A sixth field `ckpt-step-50` names a checkpoint of the same run. The third field is the tenant
whose model it is, so that who may use it follows from the name alone.
"""

import re

_TUNED = re.compile(
    r"ft:[^:/\\+]+:(?P<owner>[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}):[A-Za-z0-9._-]{0,64}"
    r":[A-Za-z][A-Za-z0-9]{7}(?::ckpt-step-\d{1,9})?"
)
_CHECKPOINT = "ckpt-step-"


def is_tuned(name: str) -> bool:
    """Tell whether `name` is that of a fine-tuned model, whole and well formed."""
    return _TUNED.fullmatch(name) is not None


def owner_of(name: str) -> str | None:
    """Return the tenant whose fine-tuned model `name` is; None for all other names."""
    match = _TUNED.fullmatch(name)
    return match["owner"] if match else None


def split_weight(part: str) -> tuple[str, str | None]:
    """Split a part of a mixture into its name and the text of its weight; None: it has none.

    What begins with `ft:` has five fields, or six if the sixth names a checkpoint, and only what
    follows them is a weight. With fewer fields it names no model, and has no weight either; but
    `ft:0.5` is the adapter `ft`.
    """
    fields = part.split(":")
    if fields[0] == "ft" and len(fields) > 2:
        is_checkpoint = len(fields) > 5 and fields[5].startswith(_CHECKPOINT)
        taken = 6 if is_checkpoint else 5
        name, rest = ":".join(fields[:taken]), fields[taken:]
        return name, ":".join(rest) if rest else None
    name, colon, weight = part.rpartition(":")
    return (name, weight) if colon else (part, None)
