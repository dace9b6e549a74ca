"""Hostile changes of any JSON value: it is changed as a tree and written as text at the end."""

import copy
import json
import random
from typing import Any

_quoted = json.encoder.encode_basestring_ascii
LARGEST = 1 << 16
"""Characters of a long text, or items of a long list; callers may pass other sizes."""


class Raw(str):
    """Text that is written as it is: numbers that no type of Python holds, or no JSON at all."""


class Pairs(list):
    """An object as a list of [name, value], so that a name can occur twice."""


def thaw(value: Any) -> Any:
    """`value` as a tree that can be changed: objects become `Pairs`."""
    if isinstance(value, dict):
        return Pairs([name, thaw(item)] for name, item in value.items())
    return [thaw(item) for item in value] if isinstance(value, list) else value


def to_text(tree: Any) -> str:
    """A tree as JSON; lone halves of characters become escapes, as ASCII."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, str):
        return _quoted(tree)
    if type(tree) is int:
        return repr(tree)
    if isinstance(tree, Pairs):
        return "{" + ",".join([f"{_quoted(k)}:{to_text(v)}" for k, v in tree]) + "}"
    if isinstance(tree, list):
        return "[" + ",".join([to_text(item) for item in tree]) + "]"
    return json.dumps(tree)


NUMBERS = [
    0, 1, -1, 2, 3, 7, 255, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**62, 2**63 - 1,
    2**63,
    -(2**63), 2**64, 10**18, 10**30, 0.5, 1.0, -0.0, 1e-320, 1e38, 3.5e38, 1e308, -1e308,
    Raw("1e999"), Raw("-1E+999"), Raw("NaN"), Raw("Infinity"), Raw("-Infinity"),
    Raw("1" + "0" * 400),
    Raw("9" * 5000), Raw("0." + "3" * 3000), Raw("01"), Raw("+1"), Raw("1e-99999"), Raw("0x10"),
]  # fmt: skip
TEXTS = [
    "", " ", "\0", "\n", "a\nb", "\r\n\r\n", "\x7f", "\ud800", "\udfff\ud800", "é", "e\u0301", "😀",
    "\u202eabc", "\ufeff", "\uffff", "٣", "²", "../../../../etc/passwd", "/dev/zero", "..", ".",
    "C:\\x",
    "%s%n%d", "{0.__class__}", "${jndi:x}", "<script>", "'; --", "null", "true", "NaN", "__class__",
    "__metadata__", "__proto__", "data: [DONE]\n\n", "{{ 7 * 7 }}", "{% for x in y %}",
    "(", "[", "\\",
]  # fmt: skip


def hostile_value(rng: random.Random, size: int = LARGEST) -> Any:
    """Anything but what is expected."""
    kind = rng.randrange(10)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind < 7:
        return rng.choice(TEXTS)
    makers = [
        lambda: rng.choice([None, True, False]),
        lambda: rng.choice([[], Pairs(), [[]], [Pairs()], [None], Pairs([["a", 1]])]),
        lambda: rng.choice(["a", "é", "😀", "\n", "\\", '"', "\0"]) * rng.randrange(size),
        lambda: many(
            rng.choice(["0", '"a"', "null", "1.5", "[1]", "{}"]), rng.randrange(size // 4)
        ),
        lambda: Raw("{" + ",".join(f'"k{n}":{n}' for n in range(rng.randrange(size // 8))) + "}"),
        lambda: nested(rng, rng.choice([20, 200, 900, 1100, size // 2])),
        lambda: [hostile_value(rng, 64) for _ in range(rng.randrange(5))],
    ]
    return rng.choice(makers)()


def many(item: str, count: int) -> Raw:
    """A list of one item `count` times."""
    return Raw(f"[{','.join([item] * count)}]")


def nested(rng: random.Random, depth: int) -> Raw:
    """Brackets in brackets, sometimes without an end."""
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
    return Raw(
        opening * depth + rng.choice(["1", "", '"x"']) + closing * (depth - rng.choice([0, 0, 1]))
    )


def mutate(tree: Any, rng: random.Random, *, names: Any = (), size: int = LARGEST) -> str:
    """Change one place of `tree`; returns what was done. `names` are of fields worth adding."""
    parent, index = rng.choice(_places(tree))
    name = _label(parent, index)
    change = rng.choice([_replace, _replace, _replace, _remove, _repeat, _rename, _wrap, _add])
    return f"{change.__name__[1:]} {name}{change(parent, index, rng, list(names), size)}"


def _places(tree: Any) -> list[tuple[list, int]]:
    found: list[tuple[list, int]] = []
    waiting = [tree]
    while waiting:
        parent = waiting.pop()
        for index, item in enumerate(parent[:200]):
            found.append((parent, index))
            value = item[1] if isinstance(parent, Pairs) else item
            if isinstance(value, list):
                waiting.append(value)
    return found or [(tree, 0)]


def _label(parent: list, index: int) -> str:
    if index >= len(parent):
        return "nothing"
    return repr(parent[index][0])[:60] if isinstance(parent, Pairs) else f"[{index}]"


def _set(parent: list, index: int, value: Any) -> None:
    if index >= len(parent):
        parent.append(["", value] if isinstance(parent, Pairs) else value)
    elif isinstance(parent, Pairs):
        parent[index][1] = value
    else:
        parent[index] = value


def _get(parent: list, index: int) -> Any:
    if index >= len(parent):
        return None
    return parent[index][1] if isinstance(parent, Pairs) else parent[index]


def _replace(parent: list, index: int, rng: random.Random, names: list, size: int) -> str:
    value = hostile_value(rng, size)
    _set(parent, index, value)
    return f" by {to_text(value)[:60]}"


def _remove(parent: list, index: int, rng: random.Random, names: list, size: int) -> str:
    del parent[index : index + 1]
    return ""


def _repeat(parent: list, index: int, rng: random.Random, names: list, size: int) -> str:
    length = len(to_text(_get(parent, index)))
    times = min(rng.choice([1, 1, 1, 50, 2000]), 1 + size // max(16, length))
    # No two of them share anything, or what befalls one later would befall all.
    parent[index:index] = [copy.deepcopy(e) for e in parent[index : index + 1] * times]
    return f" {times} times"


def _rename(parent: list, index: int, rng: random.Random, names: list, size: int) -> str:
    if not isinstance(parent, Pairs) or index >= len(parent):
        return _replace(parent, index, rng, names, size)
    parent[index] = [_any_name(rng, names), parent[index][1]]
    return f" to {parent[index][0][:60]!r}"


def _wrap(parent: list, index: int, rng: random.Random, names: list, size: int) -> str:
    value = _get(parent, index)
    _set(
        parent, index, rng.choice([[value], Pairs([["a", value]]), to_text(value), [value, value]])
    )
    return ""


def _add(parent: list, index: int, rng: random.Random, names: list, size: int) -> str:
    value = hostile_value(rng, size)
    if not isinstance(parent, Pairs):
        parent.insert(index, value)
        return f": {to_text(value)[:60]}"
    name = _any_name(rng, names)
    parent.insert(index, [name, value])
    return f": {name[:60]!r} = {to_text(value)[:60]}"


def _any_name(rng: random.Random, names: list) -> str:
    return rng.choice(names) if names and rng.random() < 0.7 else rng.choice([*TEXTS, "a" * 5000])
