"""Parses the conversation of a chat request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from gossamer.errors import unknown_name_message
from gossamer.serving.http.openai import unsupported_fields
from gossamer.serving.http.openai.chat.bounds import MAX_CALLS, check_depth, check_name, invalid
from gossamer.serving.http.openai.unsupported_fields import shown

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, ready for a chat template."""

    role: str
    content: str | None
    """The text; None for calls of tools without one."""
    name: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """The assistant's calls, whose arguments are objects."""
    tool_call_id: str | None = None
    """The call whose result it is."""
    reasoning: str | None = None
    """The assistant's thoughts, for templates that show them again."""

    def as_dict(self) -> dict[str, Any]:
        """Return the form that chat templates read."""
        result: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            result["name"] = self.name
        if self.tool_calls:
            result["tool_calls"] = list(self.tool_calls)
        if self.tool_call_id is not None:
            result["tool_call_id"] = self.tool_call_id
        if self.reasoning:
            result["reasoning_content"] = self.reasoning
        return result


def parse_messages(value: Any) -> tuple[Message, ...]:
    """Parse a non-empty list of turns; raises `ApiError` 400."""
    if not isinstance(value, list) or not value:
        raise invalid("messages", "'messages' must be a list with at least one message")
    return tuple(_message(turn, f"messages[{index}]") for index, turn in enumerate(value))


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise invalid(where, f"{where} must be an object with 'role' and 'content'")
    role = _role(turn.get("role"), where)
    supported = ["role", "content", "name"]
    if role == "assistant":
        supported += ["tool_calls", "reasoning_content", "reasoning"]
    if role == "tool":
        supported += ["tool_call_id"]
    known = unsupported_fields.keep_supported(
        turn, supported, unsupported_fields.MESSAGE, where=f"{where}."
    )
    calls = _calls(known.get("tool_calls") or [], f"{where}.tool_calls")
    content = _content(known.get("content"), f"{where}.content", role)
    return Message(
        role,
        None if calls and not content else content,
        name=_text(known, "name", where),
        tool_calls=calls,
        tool_call_id=_text(known, "tool_call_id", where),
        reasoning=_text(known, "reasoning_content", where) or _text(known, "reasoning", where),
    )


def _role(role: Any, where: str) -> str:
    if role == "function":
        raise invalid(f"{where}.role", f"{where}.role 'function' is not supported; use 'tool'")
    if not isinstance(role, str):
        raise invalid(f"{where}.role", f"{where}.role must be one of {', '.join(ROLES)}")
    if role not in ROLES:
        raise invalid(f"{where}.role", f"{where}: {unknown_name_message('role', role, ROLES)}")
    return "system" if role == "developer" else role


def _text(known: Mapping[str, Any], field: str, where: str) -> str | None:
    value = known.get(field)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{where}.{field}", f"{where}.{field} must be a string")
    return value


def _content(content: Any, where: str, role: str) -> str:
    if isinstance(content, str):
        return content
    if content is None and role in ("assistant", "tool"):
        return ""
    if not isinstance(content, list):
        raise invalid(where, f"{where} must be a string or a list of text parts")
    return "\n".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        raise invalid(where, f"{where} must be an object like {{'type': 'text', 'text': '...'}}")
    if part.get("type") != "text":
        kind = shown(part.get("type"))
        raise invalid(where, f"{where} is of type {kind}: only 'text' is supported")
    known = unsupported_fields.keep_supported(
        part, ("type", "text"), unsupported_fields.PART, where=f"{where}."
    )
    text = known.get("text")
    if not isinstance(text, str):
        raise invalid(f"{where}.text", f"{where}.text must be a string")
    return text


def _calls(value: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list):
        raise invalid(where, f"{where} must be a list of calls")
    if len(value) > MAX_CALLS:
        raise invalid(where, f"{where} has {len(value)} calls; at most {MAX_CALLS} are allowed")
    return tuple(_call(call, f"{where}[{index}]") for index, call in enumerate(value))


def _call(call: Any, where: str) -> Mapping[str, Any]:
    shape = f"{where} must be like {{'id': '...', 'type': 'function', 'function': {{...}}}}"
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        raise invalid(where, shape)
    name = check_name(function.get("name"), f"{where}.function.name")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    identity = call.get("id")
    if identity is not None and not isinstance(identity, str):
        raise invalid(f"{where}.id", f"{where}.id must be a string")
    known = {} if identity is None else {"id": identity}
    return {**known, "type": "function", "function": {"name": name, "arguments": arguments}}


def _arguments(value: Any, where: str) -> dict[str, Any]:
    """Decode the arguments of a call: OpenAI's are JSON in a string, templates read the object."""
    if isinstance(value, str):
        try:
            value = from_json(value or "{}", allow_inf_nan=False)
        except ValueError as error:
            raise invalid(where, f"{where} is not valid JSON: {error}") from None
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise invalid(where, f"{where} must be a JSON object, in a string")
    check_depth(value, where)
    return value
