"""Fields that take several shapes (`messages`, `prompt`, `stop`), brought to one."""

from dataclasses import dataclass
from typing import Any, Never

from gossamer.errors import unknown_name_message
from gossamer.serving.http import fields
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.fields import shown

Prompt = str | tuple[int, ...]

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1_000
"""Of one text; each is looked for with each new token."""
ROLES = ("system", "developer", "user", "assistant")
TOOL_ROLES = ("tool", "function")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, ready for a chat template."""

    role: str
    content: str
    name: str | None = None

    def as_dict(self) -> dict[str, str]:
        """The form that chat templates read."""
        named = {"name": self.name} if self.name is not None else {}
        return {"role": self.role, "content": self.content, **named}


def parse_messages(value: Any) -> tuple[Message, ...]:
    """A non-empty list of turns; raises `ApiError` 400."""
    if not isinstance(value, list) or not value:
        _refuse("messages", "'messages' must be a list with at least one message")
    return tuple(_message(turn, f"messages[{index}]") for index, turn in enumerate(value))


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        _refuse(where, f"{where} must be an object with 'role' and 'content'")
    # The role first: "tools are not supported" helps more than a complaint about tool_call_id.
    role = _role(turn.get("role"), where)
    known = fields.keep_supported(
        turn, ("role", "content", "name"), fields.MESSAGE, where=f"{where}."
    )
    name = known.get("name")
    if name is not None and not isinstance(name, str):
        _refuse(f"{where}.name", f"{where}.name must be a string")
    return Message(role, _content(known.get("content"), f"{where}.content"), name)


def _role(role: Any, where: str) -> str:
    if role in TOOL_ROLES:
        _refuse(f"{where}.role", f"{where}.role '{role}' is not supported: tools are not")
    if not isinstance(role, str):
        _refuse(f"{where}.role", f"{where}.role must be one of {', '.join(ROLES)}")
    if role not in ROLES:
        _refuse(f"{where}.role", f"{where}: {unknown_name_message('role', role, ROLES)}")
    return "system" if role == "developer" else role


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        _refuse(where, f"{where} must be a string or a list of text parts")
    return "\n".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        _refuse(where, f"{where} must be an object like {{'type': 'text', 'text': '...'}}")
    if part.get("type") != "text":
        kind = shown(part.get("type"))
        _refuse(where, f"{where} is of type {kind}: only 'text' is supported")
    known = fields.keep_supported(part, ("type", "text"), {}, where=f"{where}.")
    text = known.get("text")
    if not isinstance(text, str):
        _refuse(f"{where}.text", f"{where}.text must be a string")
    return text


def parse_prompts(value: Any) -> tuple[Prompt, ...]:
    """One prompt or several, each text or token ids; raises `ApiError` 400."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        _refuse("prompt", "'prompt' must be a text, a list of token ids, or a list of either")
    if all(isinstance(item, str) for item in value):
        return tuple(value)
    if _is_token_ids(value):
        return (tuple(value),)
    if all(isinstance(item, list) and item and _is_token_ids(item) for item in value):
        return tuple(tuple(item) for item in value)
    kinds = "a text, a list of token ids (whole numbers from 0), or a list of either, not mixed"
    raise ApiError(400, f"'prompt' must be {kinds}", code="invalid_value", param="prompt")


def _is_token_ids(items: list[Any]) -> bool:
    # type() and not isinstance(): JSON's true is no token id.
    return all(type(item) is int and item >= 0 for item in items)


def parse_stop(value: Any) -> tuple[str, ...]:
    """One text or a list of them; raises `ApiError` 400."""
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and len(texts) > MAX_STOPS:
        _refuse("stop", f"'stop' has {len(texts)} texts; at most {MAX_STOPS} are allowed")
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        _refuse("stop", "'stop' must be a non-empty text or a list of such texts")
    if (longest := max(map(len, texts), default=0)) > MAX_STOP_CHARACTERS:
        limit = f"at most {MAX_STOP_CHARACTERS} are allowed"
        _refuse("stop", f"'stop' has a text of {longest} characters; {limit}")
    return tuple(texts)


def _refuse(param: str, message: str) -> Never:
    raise ApiError(400, message, code="invalid_value", param=param)
