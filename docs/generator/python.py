"""The public Python names: signatures and docstrings."""

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from typing import Any

import gossamer
from generator.markdown import prose, short_names
from generator.sources import attribute_docs


def page() -> str:
    """docs/reference/python.md."""
    parts = ["# Python", inspect.cleandoc(gossamer.__doc__ or "")]
    parts += ["```python\nimport gossamer\n```"]
    for name in gossamer.__all__:
        parts += _entry(f"gossamer.{name}", getattr(gossamer, name), level=2)
    return "\n\n".join(parts)


def _entry(name: str, thing: Any, level: int) -> Iterator[str]:
    yield f"{'#' * level} {name}"
    if dataclasses.is_dataclass(thing):
        yield prose(inspect.getdoc(thing))
        yield _fields(thing)
        return
    if not (inspect.isclass(thing) and issubclass(thing, Exception)):
        yield f"```python\n{_signature(name, thing)}\n```"
    yield prose(inspect.getdoc(thing))
    if inspect.isclass(thing):
        for key, member in vars(thing).items():
            if not key.startswith("_") and inspect.isfunction(member):
                yield from _entry(f"{thing.__name__}.{key}", member, level + 1)


def _fields(cls: Any) -> str:
    docs = attribute_docs(cls)
    lines = []
    for field in dataclasses.fields(cls):
        text = f"- `{field.name}: {_short(field.type)}{_default(field)}`"
        lines.append(f"{text} {docs[field.name]}" if field.name in docs else text)
    return "\n".join(lines)


def _default(field: "dataclasses.Field[Any]") -> str:
    return "" if field.default is dataclasses.MISSING else f" = {field.default!r}"


def _signature(name: str, thing: Any) -> str:
    signature = inspect.signature(thing)
    parameters = [_short(str(p)) for n, p in signature.parameters.items() if n != "self"]
    result = signature.return_annotation
    arrow = "" if result is inspect.Signature.empty or inspect.isclass(thing) else _arrow(result)
    starred = _with_star(signature, parameters)
    line = f"{name}({', '.join(starred)}){arrow}"
    if len(line) <= 88:
        return line
    return f"{name}(\n" + "".join(f"    {p},\n" for p in starred) + f"){arrow}"


def _with_star(signature: inspect.Signature, shown: list[str]) -> list[str]:
    kinds = [p.kind for n, p in signature.parameters.items() if n != "self"]
    first = next((i for i, k in enumerate(kinds) if k is inspect.Parameter.KEYWORD_ONLY), None)
    return shown if first is None else [*shown[:first], "*", *shown[first:]]


def _arrow(annotation: Any) -> str:
    return f" -> {_short(annotation)}"


def _short(annotation: Any) -> str:
    return annotation.__name__ if _is_plain_class(annotation) else short_names(str(annotation))


def _is_plain_class(annotation: Any) -> bool:
    return inspect.isclass(annotation) and typing.get_origin(annotation) is None
