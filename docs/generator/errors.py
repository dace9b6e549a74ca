"""The tree of errors with exit codes and HTTP statuses."""

import inspect

from generator.markdown import one_line, table
from gossamer import errors
from gossamer.errors import GossamerError
from gossamer.serving.http.errors import STATUS


def page() -> str:
    """docs/reference/errors.md."""
    first, tree, rest = inspect.cleandoc(errors.__doc__ or "").split("\n\n", 2)
    classes = [
        cls
        for cls in vars(errors).values()
        if inspect.isclass(cls) and issubclass(cls, GossamerError)
    ]
    rows = [
        (f"`{cls.__name__}`", one_line(cls.__doc__), str(cls.exit_code), *_status(cls))
        for cls in classes
    ]
    return "\n\n".join(
        [
            "# Errors",
            first,
            f"```\n{inspect.cleandoc(tree)}\n```",
            rest,
            table(["class", "meaning", "exit code", "HTTP status", "`code`"], rows),
        ]
    )


def _status(cls: type[GossamerError]) -> tuple[str, str]:
    status, code = next((s, c) for kind, s, c in STATUS if issubclass(cls, kind))
    return str(status), f"`{code}`"
