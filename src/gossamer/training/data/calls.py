"""Checks the tools of a row and the calls in its messages."""

import json
from collections.abc import Mapping
from typing import Any

from gossamer.training.data.rows import RowProblem, describe

Tool = Mapping[str, Any]
"""A tool as `apply_chat_template` takes it: a JSON schema of a function."""


def check_tools(values: Mapping[str, Any]) -> tuple[Tool, ...]:
    """Return the tools of a row: a list in the column `tools`, or the JSON text of one.

    Their keys stay in the order in which they are, for so the template writes them. Raises
    `RowProblem`.
    """
    tools = values.get("tools")
    if isinstance(tools, str):
        # Parquet files cannot hold objects of different shapes, which is why text is common there.
        tools = _decoded("tools", tools) if tools.strip() else None
    if not tools:
        return ()
    if not isinstance(tools, list):
        raise RowProblem(f"'tools' must be a list of functions, got {describe(tools)}")
    return tuple(_tool(f"tools[{index}]", tool) for index, tool in enumerate(tools))


def _tool(place: str, tool: object) -> Tool:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowProblem(f"{place} must be a function with a 'name', got {describe(tool)}")
    assert isinstance(tool, dict)
    return tool


def check_calls(place: str, calls: object) -> list[dict[str, Any]]:
    """Return the calls of a message, whose arguments are objects. Raises `RowProblem`."""
    if not calls:
        return []
    if not isinstance(calls, list):
        raise RowProblem(f"{place} must be a list of calls, got {describe(calls)}")
    return [_call(f"{place}[{index}]", call) for index, call in enumerate(calls)]


def _call(place: str, call: object) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowProblem(f"{place} must be a call of a function by 'name', got {describe(call)}")
    assert isinstance(call, dict)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        # OpenAI's are JSON in a string; templates write objects.
        arguments = _decoded(f"{place}.function.arguments", arguments or "{}")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RowProblem(
            f"{place}.function.arguments must be an object, or its JSON in a string, "
            f"got {describe(arguments)}"
        )
    named = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    said = {"name": function["name"], "arguments": arguments}
    return {**named, "type": "function", "function": said}


def _decoded(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RowProblem(f"'{place}' is text that is not JSON") from None
