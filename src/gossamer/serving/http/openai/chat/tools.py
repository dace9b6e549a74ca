"""Parses the tools of a chat request, and which of them the answer may or has to call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gossamer.errors import unknown_name_message
from gossamer.serving.http.openai import unsupported_fields
from gossamer.serving.http.openai.chat.bounds import MAX_TOOLS, check_depth, check_name, invalid
from gossamer.serving.http.openai.unsupported_fields import shown

ChoiceMode = Literal["none", "auto", "required"]
_MODES = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the client offers."""

    name: str
    as_dict: Mapping[str, Any]
    """The form that chat templates read: the client's own, less what is not for the model."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The JSON schema of its arguments, an object; without parameters, an empty one."""
        found: Mapping[str, Any] | None = self.as_dict["function"].get("parameters")
        if found:
            # Whatever else its type admits, the arguments of a call are an object.
            return {**found, "type": "object"}
        return {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether tools are called: at will, not at all, or one has to be."""

    mode: ChoiceMode = "auto"
    names: tuple[str, ...] = ()
    """The tools among which to choose; none: all."""
    is_one: bool = False
    """Whether it is one tool, named to be called once."""


def parse_tools(value: Any) -> tuple[Tool, ...]:
    """Parse a list of tools with names of their own; raises `ApiError` 400."""
    if not isinstance(value, list):
        raise invalid("tools", "'tools' must be a list of functions")
    if len(value) > MAX_TOOLS:
        raise invalid("tools", f"'tools' has {len(value)} tools; at most {MAX_TOOLS} are allowed")
    tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(value))
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in seen:
            raise invalid("tools", f"tools[{index}] is the second tool of the name '{tool.name}'")
        seen.add(tool.name)
    return tools


def _tool(tool: Any, where: str) -> Tool:
    if not isinstance(tool, dict):
        raise invalid(where, f"{where} must be like {{'type': 'function', 'function': {{...}}}}")
    if tool.get("type") != "function":
        kind = shown(tool.get("type"))
        raise invalid(f"{where}.type", f"{where}.type is {kind}: only 'function' is supported")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise invalid(f"{where}.function", f"{where}.function must be an object with a 'name'")
    name = check_name(function.get("name"), f"{where}.function.name")
    known = unsupported_fields.keep_supported(
        function,
        ("name", "description", "parameters"),
        unsupported_fields.TOOL,
        where=f"{where}.function.",
    )
    if not isinstance(known.get("description", ""), str):
        place = f"{where}.function.description"
        raise invalid(place, f"{place} must be a string")
    parameters = known.get("parameters")
    if parameters is not None:
        place = f"{where}.function.parameters"
        if not isinstance(parameters, dict):
            raise invalid(place, f"{place} must be a JSON schema, an object")
        check_depth(parameters, place)
        _check_type(parameters, f"{place}.type")
    return Tool(name, {"type": "function", "function": known})


def _check_type(parameters: Mapping[str, Any], where: str) -> None:
    """Raise `ApiError` 400 for a schema that no object keeps to: arguments are one."""
    kind = parameters.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise invalid(where, f"{where} is {shown(kind)}: arguments are an object; use 'object'")


def parse_tool_choice(value: Any) -> ToolChoice:
    """Parse a mode, the name of a tool, or several allowed ones; raises `ApiError` 400."""
    if isinstance(value, str):
        return ToolChoice(_mode(value, "tool_choice"))
    match value:
        case {"type": "function", "function": {"name": name}}:
            return ToolChoice("required", (check_name(name, "tool_choice.function.name"),), True)
        case {"type": "allowed_tools", "allowed_tools": {"mode": str(mode), "tools": list(tools)}}:
            where = "tool_choice.allowed_tools"
            names = tuple(_allowed(tool, f"{where}.tools") for tool in tools[: MAX_TOOLS + 1])
            if not 0 < len(names) <= MAX_TOOLS:
                raise invalid(f"{where}.tools", f"{where}.tools must name 1 to {MAX_TOOLS} tools")
            return ToolChoice(_mode(mode, f"{where}.mode"), names)
    raise invalid(
        "tool_choice",
        "'tool_choice' must be none, auto, required, or "
        '{"type": "function", "function": {"name": "..."}}',
    )


def _mode(value: str, where: str) -> ChoiceMode:
    for mode in ("none", "auto", "required"):
        if value == mode:
            return mode
    raise invalid(where, unknown_name_message(where, value, _MODES))


def _allowed(tool: Any, where: str) -> str:
    match tool:
        case {"type": "function", "function": {"name": name}} | {"type": "function", "name": name}:
            return check_name(name, where)
    raise invalid(where, f"{where} must be a list of functions by name")


def check_choice(tools: tuple[Tool, ...], choice: ToolChoice) -> None:
    """Raise `ApiError` 400 for a choice of what is not offered."""
    if not tools and (choice.mode == "required" or choice.names):
        raise invalid("tool_choice", "'tool_choice' needs 'tools' to choose from")
    offered = {tool.name for tool in tools}
    for name in choice.names:
        if name not in offered:
            raise invalid("tool_choice", unknown_name_message("tool", name, offered))
