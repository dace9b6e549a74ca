"""Sentences that stand under the fields of a class; Python itself does not keep them."""

import ast
import inspect
import textwrap
from typing import Any

from generator.markdown import one_line


def attribute_docs(cls: Any) -> dict[str, str]:
    """Field name to the string that follows it in the class's source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[statement.target.id] = one_line(after.value.value)
    return found
