"""Every settings class of the package: fields, types, defaults, sentences."""

import inspect
import pkgutil
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import gossamer
from generator.markdown import one_line, short_names, table
from gossamer.settings import Settings

METHODS = "gossamer.methods."
OF_RAY = (".replicas.deployments", ".replicas.router")
OF_THE_HARNESS = (".evaluation.backend", ".evaluation.run")
OF_FLOWER = "gossamer.federated.flower."


def page() -> str:
    """docs/reference/settings.md."""
    parts = [
        "# Settings",
        "The same names work on the command line, in YAML and in Python. An unknown name is an"
        " error that says which known one is nearest. The settings of each method are on the"
        " [page of methods](methods.md).",
    ]
    for cls in all_settings():
        parents = [base for base in cls.__bases__ if getattr(base, "model_fields", {})]
        links = [f"[{base.__name__}](#{base.__name__.lower()})" for base in parents]
        more = f" Also all of {', '.join(links)}." if links else ""
        sentence = one_line(cls.__doc__) + more
        parts += [f"## {cls.__name__}", sentence, f"`{cls.__module__}`"]
        parts += [fields(cls, besides=parents)]
    return "\n\n".join(parts)


def all_settings() -> list[type[Settings]]:
    """All settings classes that have fields, but those of methods, by module and name."""
    for module in pkgutil.walk_packages(gossamer.__path__, "gossamer."):
        # They need packages that the base install does not have.
        if module.name.startswith(OF_FLOWER):
            continue
        if not module.name.endswith((".triton_kernels", ".flashinfer", *OF_THE_HARNESS, *OF_RAY)):
            import_module(module.name)
    found = {cls for cls in _subclasses(Settings) if not cls.__module__.startswith(METHODS)}
    return sorted(
        (cls for cls in found if cls.model_fields), key=lambda c: (c.__module__, c.__name__)
    )


def fields(cls: type[Settings], *, besides: Sequence[type[Any]] = ()) -> str:
    """The table of the fields of `cls` that the classes `besides` do not have."""
    known = {name for other in besides for name in getattr(other, "model_fields", {})}
    rows = [
        (f"`{name}`", f"`{type_name(info.annotation)}`", _default(info), info.description or "")
        for name, info in cls.model_fields.items()
        if name not in known
    ]
    return table(["setting", "type", "default", "meaning"], rows)


def _subclasses(cls: type[Settings]) -> set[type[Settings]]:
    direct = set(cls.__subclasses__())
    return direct.union(*(_subclasses(child) for child in direct))


def type_name(annotation: Any) -> str:
    """An annotation as a person would write it."""
    if inspect.isclass(annotation) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    # Names of letters in a choice keep their quotes; only module names go.
    text = str(annotation).replace("typing.", "")
    return _without_constraints(text if text.startswith("Literal") else short_names(text))


def _without_constraints(text: str) -> str:
    """`Annotated[int, FieldInfo(...)]` as `int`: the sentence says what values make sense."""
    while (start := text.find("Annotated[")) >= 0:
        depth, comma = 0, None
        for index in range(start + len("Annotated"), len(text)):
            depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(text[index], 0)
            if text[index] == "," and depth == 1 and comma is None:
                comma = index
            if depth == 0:
                inner = text[start + len("Annotated[") : comma]
                text = text[:start] + inner + text[index + 1 :]
                break
    return text


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = info.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "required"
    return f"`{default!r}`" if isinstance(default, str | tuple | list | dict) else f"`{default}`"
