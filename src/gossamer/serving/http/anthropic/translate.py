"""Turns the body of POST /v1/messages into that of a chat, which alone knows what is allowed."""

import json
from collections.abc import Mapping
from typing import Any

from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai import unsupported_fields
from gossamer.serving.http.openai.chat.bounds import invalid
from gossamer.serving.http.openai.chat.field_names import FieldNames
from gossamer.serving.http.openai.field_rules import (
    BLOCK,
    CLIENT_TOOL,
    MESSAGES,
    THINKING,
    TOOL_BLOCK,
)
from gossamer.serving.http.openai.request_schema import ChatBody
from gossamer.serving.http.openai.sizes import SizeLimits
from gossamer.serving.http.openai.unsupported_fields import shown

Values = dict[str, Any]

SAME = ("model", "stream", "temperature", "top_p", "top_k", "chat_template_kwargs", "seed")
"""Fields that chats have too; the last ones are extensions of Anthropic's."""
OWN = (
    *("messages", "system", "max_tokens", "stop_sequences", "tools", "tool_choice"),
    *("output_config", "thinking"),
)
"""Fields that are this route's."""


_TOOL = ("name", "description", "input_schema", "input_examples", "type")
_USE_FIELDS = ("type", "id", "name", "input")
_RESULT_FIELDS = ("type", "tool_use_id", "content", "is_error")
_THINKS = {"enabled": True, "disabled": False, "adaptive": None}
"""What the types of `thinking` tell the template; None: nothing."""
_UNSEEN = ("thinking", "redacted_thinking")
"""Blocks that are taken and not shown to the model again."""
_NAMES = {
    "prompt": "messages",
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "response_format.json_schema": "output_config.format",
    "tools[*].function": "tools[*]",
    "tools[*].function.parameters": "tools[*].input_schema",
    "tool_choice.function": "tool_choice",
    "reasoning_effort": "output_config.effort",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "continue_final_message": "messages",
}
"""The fields of a chat that have other names here."""


def to_chat(
    values: Mapping[str, Any], limits: SizeLimits, *, is_counted: bool = False
) -> tuple[ChatBody, FieldNames]:
    """Parse the body of a call; `is_counted`: its tokens are to be counted, not answered.

    Returns the chat, and the names for errors about it. Raises `ApiError` 400 that names the place
    in the body.
    """
    known = unsupported_fields.keep_supported(values, (*SAME, *OWN), MESSAGES)
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
        chat |= _output_config(known["output_config"])
    if "thinking" in known:
        chat |= _thinking(known["thinking"], known.get("chat_template_kwargs", {}))
    made = dict(_NAMES)
    chat["messages"] = _messages(known, made)
    if _is_begun(chat["messages"]):
        chat["continue_final_message"] = True
    names = FieldNames(made)
    try:
        body = ChatBody.parse(chat, limits)
    except ApiError as error:
        raise names.renamed(error) from None
    if body.messages[-1].tool_calls:
        place = f"messages[{len(known['messages']) - 1}]"
        raise invalid(
            place, f"{place} calls tools; send their results as 'tool_result' in a message after it"
        )
    return body, names


def _tool(tool: Any, where: str) -> Values:
    if not isinstance(tool, dict):
        raise invalid(where, f"{where} must be an object with 'name' and 'input_schema'")
    if tool.get("type", "custom") != "custom":
        kind = shown(tool["type"])
        raise invalid(
            f"{where}.type", f"{where}.type is {kind}: only tools of clients are supported"
        )
    known = unsupported_fields.keep_supported(tool, _TOOL, CLIENT_TOOL, where=f"{where}.")
    function: Values = {name: known[name] for name in ("name", "description") if name in known}
    if "input_schema" in known:
        function["parameters"] = known["input_schema"]
    examples = known.get("input_examples", [])
    if not isinstance(examples, list) or not all(isinstance(each, dict) for each in examples):
        place = f"{where}.input_examples"
        raise invalid(place, f"{place} must be a list of objects")
    if examples and isinstance(known.get("input_schema"), dict):
        # Where JSON Schema has them, so that templates show them.
        function["parameters"] = {**known["input_schema"], "examples": examples}
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> Values:
    kind = choice.get("type") if isinstance(choice, dict) else None
    parallel: Values = {}
    if isinstance(choice, dict) and (one := choice.get("disable_parallel_tool_use")) is not None:
        if not isinstance(one, bool):
            place = "tool_choice.disable_parallel_tool_use"
            raise invalid(place, f"{place} is {shown(one)}: it must be true or false")
        parallel["parallel_tool_calls"] = not one
    if kind == "tool":
        named = {"type": "function", "function": {"name": choice.get("name")}}
        return {"tool_choice": named, **parallel}
    modes = {"auto": "auto", "any": "required", "none": "none"}
    if not isinstance(kind, str) or kind not in modes:
        raise invalid("tool_choice", "'tool_choice' must have the type auto, any, tool or none")
    return {"tool_choice": modes[kind], **parallel}


def _output_config(config: Any) -> Values:
    if not isinstance(config, dict):
        raise invalid("output_config", "'output_config' must be an object")
    where = "output_config."
    known = unsupported_fields.keep_supported(config, ("format", "effort"), {}, where=where)
    chat = {"reasoning_effort": known["effort"]} if "effort" in known else {}
    match known.get("format"):
        case None:
            return chat
        case {"type": "json_schema", "schema": schema}:
            described = {"name": "answer", "schema": schema}
            form = {"type": "json_schema", "json_schema": described}
            return {"response_format": form, **chat}
    where = "output_config.format"
    raise invalid(where, f"{where} must be {{'type': 'json_schema', 'schema': {{...}}}}")


def _thinking(thinking: Any, variables: Any) -> Values:
    """What the template is told of a wish to think, unless `variables` say it already."""
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if not isinstance(kind, str) or kind not in _THINKS:
        raise invalid("thinking", f"'thinking' must have the type {', '.join(_THINKS)}")
    unsupported_fields.keep_supported(thinking, ("type",), THINKING, where="thinking.")
    thinks = _THINKS[kind]
    if thinks is None or not isinstance(variables, dict):
        return {}
    return {"chat_template_kwargs": {"enable_thinking": thinks, **variables}}


def _messages(known: Mapping[str, Any], names: dict[str, str]) -> list[Values]:
    """The turns of a chat; to `names` the place in the body that each part was made of is added."""
    messages: list[Values] = []
    if (system := known.get("system")) is not None:
        messages.append({"role": "system", "content": _texts(system, "system")})
        names |= {"messages[0]": "system", "messages[0].content": "system"}
    turns = known.get("messages")
    if not isinstance(turns, list) or not turns:
        raise invalid("messages", "'messages' must be a list with at least one message")
    for index, turn in enumerate(turns):
        place = f"messages[{index}]"
        if not isinstance(turn, dict) or turn.get("role") not in ("user", "assistant", "system"):
            raise invalid(place, f"{place} must be an object with the role 'user' or 'assistant'")
        _add(messages, names, place, turn)
    return messages


def _is_begun(messages: list[Values]) -> bool:
    """Whether the last of `messages` is the beginning of the answer; one without text is left
    out."""
    last = messages[-1]
    if last["role"] != "assistant" or "tool_calls" in last:
        return False
    if last["content"] in ("", []) and len(messages) > 1:
        messages.pop()
        return False
    return True


def _texts(content: Any, place: str) -> Any:
    if not isinstance(content, list):
        return content
    return [_text(block, f"{place}[{index}]") for index, block in enumerate(content)]


def _text(block: Any, where: str) -> Values:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind != "text":
        raise invalid(where, f"{where} is of type {shown(kind)}: only 'text' is supported there")
    known = unsupported_fields.keep_supported(block, ("type", "text"), BLOCK, where=f"{where}.")
    return {"type": "text", "text": known.get("text")}


def _add(messages: list[Values], names: dict[str, str], place: str, turn: Values) -> None:
    """Add the turns that one message stands for: results of tools are turns of their own."""
    role, content = turn["role"], turn.get("content")
    if not isinstance(content, list):
        names[f"messages[{len(messages)}]"] = place
        messages.append({"role": role, "content": content})
        return
    texts: list[Values] = []
    calls: list[Values] = []
    parts: dict[str, str] = {}
    results = 0
    for index, block in enumerate(content):
        where = f"{place}.content[{index}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_result" and role == "user":
            path = f"messages[{len(messages)}]"
            names |= {path: where, f"{path}.tool_call_id": f"{where}.tool_use_id"}
            messages.append(_result(block, where))
            results += 1
        elif kind == "tool_use" and role == "assistant":
            path = f"tool_calls[{len(calls)}]"
            parts |= {path: where, f"{path}.function": where}
            parts[f"{path}.function.arguments"] = f"{where}.input"
            calls.append(_call(block, where))
        elif kind not in _UNSEEN:
            parts[f"content[{len(texts)}]"] = where
            texts.append(_text(block, where))
    if texts or calls or not results:
        path = f"messages[{len(messages)}]"
        names[path] = place
        names |= {f"{path}.{part}": where for part, where in parts.items()}
        said = {"tool_calls": calls} if calls else {}
        messages.append({"role": role, "content": texts or (None if calls else ""), **said})


def _result(block: Values, where: str) -> Values:
    known = unsupported_fields.keep_supported(block, _RESULT_FIELDS, TOOL_BLOCK, where=f"{where}.")
    is_error = known.get("is_error", False)
    if not isinstance(is_error, bool):
        raise invalid(f"{where}.is_error", f"{where}.is_error must be true or false")
    content = _texts(known.get("content", ""), f"{where}.content")
    return {
        "role": "tool",
        "tool_call_id": known.get("tool_use_id"),
        "content": _as_error(content) if is_error else content,
    }


def _as_error(content: Any) -> Any:
    """What a model is told of the failure of a tool: templates know no field for it."""
    if isinstance(content, str):
        return f"Error: {content}" if content else "Error"
    match content:
        case [{"text": str(text)} as first, *others]:
            return [{**first, "text": f"Error: {text}"}, *others]
        case []:
            return "Error"
    return content


def _call(block: Values, where: str) -> Values:
    known = unsupported_fields.keep_supported(block, _USE_FIELDS, TOOL_BLOCK, where=f"{where}.")
    arguments = known.get("input", {})
    if not isinstance(arguments, dict):
        raise invalid(f"{where}.input", f"{where}.input must be an object")
    function = {"name": known.get("name"), "arguments": json.dumps(arguments)}
    return {"id": known.get("id"), "type": "function", "function": function}
