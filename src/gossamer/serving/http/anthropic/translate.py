"""Turns the body of POST /v1/messages into that of a chat, which alone knows what is allowed."""

import json
import re
from collections.abc import Mapping
from typing import Any

from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai import unsupported_fields
from gossamer.serving.http.openai.chat.bounds import invalid
from gossamer.serving.http.openai.request_schema import ChatBody
from gossamer.serving.http.openai.sizes import SizeLimits
from gossamer.serving.http.openai.unsupported_fields import Neutral, shown

Values = dict[str, Any]

SAME = ("model", "stream", "temperature", "top_p", "top_k", "chat_template_kwargs", "seed")
"""Fields that chats have too; the last ones are extensions of Anthropic's."""
OWN = (
    *("messages", "system", "max_tokens", "stop_sequences", "tools", "tool_choice"),
    "output_config",
)
"""Fields that are this route's."""


def _anything(value: Any) -> bool:
    return True


def _empty(value: Any) -> bool:
    return value in ([], {}, "")


NEUTRAL: dict[str, Neutral] = {
    "metadata": _anything,
    "service_tier": _anything,
    "thinking": _anything,
    "cache_control": _anything,
    "inference_geo": _anything,
    "context_management": _anything,
    "container": _empty,
    "mcp_servers": _empty,
}
"""Fields that are accepted with a value that asks for nothing here."""
_BLOCK = {"cache_control": _anything, "citations": _anything}
_TOOL = ("name", "description", "input_schema", "type", "strict", "cache_control")
_UNSEEN = ("thinking", "redacted_thinking")
"""Blocks that are taken and not shown to the model again."""
_THEIRS = re.compile(r"messages\[(\d+)\](?:\.content)?")
_OTHER_NAMES = {
    "max_completion_tokens": "max_tokens",
    "'stop'": "'stop_sequences'",
    "response_format.json_schema.schema": "output_config.format.schema",
}


def to_chat(values: Mapping[str, Any], limits: SizeLimits, *, is_counted: bool = False) -> ChatBody:
    """Parse the body of a call; `is_counted`: its tokens are to be counted, not answered.

    Raises `ApiError` 400 that names the place in the body.
    """
    known = unsupported_fields.keep_supported(values, (*SAME, *OWN), NEUTRAL)
    if "max_tokens" not in known and not is_counted:
        raise ApiError(
            400,
            "field 'max_tokens' is required",
            code="missing_required_parameter",
            param="max_tokens",
        )
    chat = {name: known[name] for name in SAME if name in known}
    if "max_tokens" in known:
        chat["max_completion_tokens"] = known["max_tokens"]
    if "stop_sequences" in known:
        # With the text that ended the answer in it, that can be told.
        chat |= {"stop": known["stop_sequences"], "include_stop_str_in_output": True}
    if "tools" in known:
        tools = known["tools"]
        chat["tools"] = tools if not isinstance(tools, list) else [
            _tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)
        ]  # fmt: skip
    if "tool_choice" in known:
        chat |= _tool_choice(known["tool_choice"])
    if "output_config" in known:
        chat |= _form(known["output_config"])
    places: list[str] = []
    chat["messages"] = _messages(known, places)
    try:
        return ChatBody.parse(chat, limits)
    except ApiError as error:
        raise _placed(error, places) from None


def _tool(tool: Any, where: str) -> Values:
    if not isinstance(tool, dict):
        raise invalid(where, f"{where} must be an object with 'name' and 'input_schema'")
    if tool.get("type", "custom") != "custom":
        kind = shown(tool["type"])
        raise invalid(
            f"{where}.type", f"{where}.type is {kind}: only tools of clients are supported"
        )
    known = unsupported_fields.keep_supported(tool, _TOOL, {}, where=f"{where}.")
    function: Values = {name: known[name] for name in ("name", "description") if name in known}
    if "input_schema" in known:
        function["parameters"] = known["input_schema"]
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> Values:
    kind = choice.get("type") if isinstance(choice, dict) else None
    parallel: Values = {}
    if isinstance(choice, dict) and choice.get("disable_parallel_tool_use") is not None:
        parallel["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]
    if kind == "tool":
        named = {"type": "function", "function": {"name": choice.get("name")}}
        return {"tool_choice": named, **parallel}
    modes = {"auto": "auto", "any": "required", "none": "none"}
    if not isinstance(kind, str) or kind not in modes:
        raise invalid("tool_choice", "'tool_choice' must have the type auto, any, tool or none")
    return {"tool_choice": modes[kind], **parallel}


def _form(config: Any) -> Values:
    if not isinstance(config, dict):
        raise invalid("output_config", "'output_config' must be an object")
    effort = {"effort": _anything}
    known = unsupported_fields.keep_supported(config, ("format",), effort, where="output_config.")
    match known.get("format"):
        case None:
            return {}
        case {"type": "json_schema", "schema": schema}:
            described = {"name": "answer", "schema": schema}
            return {"response_format": {"type": "json_schema", "json_schema": described}}
    where = "output_config.format"
    raise invalid(where, f"{where} must be {{'type': 'json_schema', 'schema': {{...}}}}")


def _messages(known: Mapping[str, Any], places: list[str]) -> list[Values]:
    """The turns of a chat; to `places` the place of each in the body is added."""
    messages: list[Values] = []
    if (system := known.get("system")) is not None:
        messages.append({"role": "system", "content": _texts(system, "system")})
        places.append("system")
    turns = known.get("messages")
    if not isinstance(turns, list) or not turns:
        raise invalid("messages", "'messages' must be a list with at least one message")
    for index, turn in enumerate(turns):
        place = f"messages[{index}]"
        if not isinstance(turn, dict) or turn.get("role") not in ("user", "assistant", "system"):
            raise invalid(place, f"{place} must be an object with the role 'user' or 'assistant'")
        made = _turns(turn, place)
        messages += made
        places += [place] * len(made)
    return messages


def _texts(content: Any, place: str) -> Any:
    if not isinstance(content, list):
        return content
    return [_text(block, f"{place}[{index}]") for index, block in enumerate(content)]


def _text(block: Any, where: str) -> Values:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind != "text":
        raise invalid(where, f"{where} is of type {shown(kind)}: only 'text' is supported there")
    known = unsupported_fields.keep_supported(block, ("type", "text"), _BLOCK, where=f"{where}.")
    return {"type": "text", "text": known.get("text")}


def _turns(turn: Values, place: str) -> list[Values]:
    """The turns that one message stands for: results of tools are turns of their own."""
    role, content = turn["role"], turn.get("content")
    if not isinstance(content, list):
        return [{"role": role, "content": content}]
    results: list[Values] = []
    texts: list[Values] = []
    calls: list[Values] = []
    for index, block in enumerate(content):
        where = f"{place}.content[{index}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_result" and role == "user":
            results.append(_result(block, where))
        elif kind == "tool_use" and role == "assistant":
            calls.append(_call(block, where))
        elif kind not in _UNSEEN:
            texts.append(_text(block, where))
    if not texts and not calls:
        return results or [{"role": role, "content": ""}]
    said = {"role": role, "content": texts or None, **({"tool_calls": calls} if calls else {})}
    return [*results, said]


def _result(block: Values, where: str) -> Values:
    content = block.get("content")
    return {
        "role": "tool",
        "tool_call_id": block.get("tool_use_id"),
        "content": "" if content is None else _texts(content, f"{where}.content"),
    }


def _call(block: Values, where: str) -> Values:
    arguments = block.get("input", {})
    if not isinstance(arguments, dict):
        raise invalid(f"{where}.input", f"{where}.input must be an object")
    function = {"name": block.get("name"), "arguments": json.dumps(arguments)}
    return {"id": block.get("id"), "type": "function", "function": function}


def _placed(error: ApiError, places: list[str]) -> ApiError:
    """Let an error about a turn name the place in the body that it was made of."""

    def place(found: re.Match[str]) -> str:
        index = int(found[1])
        return places[index] if index < len(places) else found[0]

    param = None if error.param is None else _THEIRS.sub(place, error.param, count=1)
    message = _THEIRS.sub(place, error.message)
    for theirs, ours in _OTHER_NAMES.items():
        message = message.replace(theirs, ours)
        param = ours.strip("'") if param == theirs.strip("'") else param
    message = message.replace(".function.parameters", ".input_schema").replace(".function", "")
    if param is not None:
        param = param.replace(".function.parameters", ".input_schema").replace(".function", "")
    return ApiError(error.status, message, code=error.code, param=param, headers=error.headers)
