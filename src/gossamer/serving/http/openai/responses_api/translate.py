"""Turns the body of POST /v1/responses into that of a chat, which alone knows what is allowed."""

from collections.abc import Callable, Mapping
from typing import Any

from gossamer.errors import cut
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai import unsupported_fields
from gossamer.serving.http.openai.chat.bounds import invalid
from gossamer.serving.http.openai.chat.field_names import FieldNames
from gossamer.serving.http.openai.field_rules import REASONING, RESPONSES
from gossamer.serving.http.openai.request_schema import ChatBody
from gossamer.serving.http.openai.sizes import SizeLimits
from gossamer.serving.http.openai.unsupported_fields import shown

Values = dict[str, Any]

SAME = (
    *("model", "stream", "temperature", "top_p", "parallel_tool_calls", "seed", "stop", "top_k"),
    *("min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"),
    *("min_tokens", "ignore_eos", "priority", "chat_template_kwargs", "structured_outputs"),
)
"""Fields that chats have too; the last ones are extensions of OpenAI's."""
OWN = (
    *("input", "instructions", "max_output_tokens", "tools", "tool_choice", "text"),
    *("previous_response_id", "store", "metadata", "reasoning"),
)
"""Fields that are this route's."""

MAX_LABELS = 16
MAX_LABEL_NAME = 64
MAX_LABEL = 512
"""The most texts of `metadata`, and characters of one's name and of itself; OpenAI's numbers."""

_NAMES = {
    "messages": "input",
    "prompt": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "tools[*].function": "tools[*]",
    "tool_choice.function": "tool_choice",
    "tool_choice.allowed_tools": "tool_choice",
}
"""The fields of a chat that have other names here."""


def to_chat(
    values: Mapping[str, Any],
    limits: SizeLimits,
    history: Callable[[str], list[Values]],
) -> tuple[ChatBody, Values, FieldNames]:
    """Parse the body of a call.

    Args:
        values: the decoded body.
        limits: as those of all bodies.
        history: gives the items of an earlier response and its answer, by its id.

    Returns the chat, the fields of the route as they were given, `input` as a list of items, and
    the names for errors about the chat. Raises `ApiError` 400 that names the place.
    """
    if values.get("messages") is not None and values.get("input") is None:
        message = "'messages' is for /v1/chat/completions; send it there, or send 'input'"
        raise ApiError(400, message, code="unknown_parameter", param="messages")
    known = unsupported_fields.keep_supported(values, (*SAME, *OWN), RESPONSES)
    new = _input_items(known.get("input"))
    earlier: list[Values] = []
    if (previous := known.get("previous_response_id")) is not None:
        if not isinstance(previous, str):
            raise invalid("previous_response_id", "'previous_response_id' must be a string")
        earlier = history(previous)
    chat = {name: known[name] for name in SAME if name in known}
    chat |= _renamed(known)
    made = dict(_NAMES)
    chat["messages"] = _messages(known.get("instructions"), earlier, new, made)
    names = FieldNames(made)
    try:
        body = ChatBody.parse(chat, limits)
    except ApiError as error:
        raise names.renamed(error) from None
    return body, {**known, "input": new}, names


def _renamed(known: Mapping[str, Any]) -> Values:
    chat: Values = {}
    if "max_output_tokens" in known:
        chat["max_completion_tokens"] = known["max_output_tokens"]
    if not isinstance(known.get("store", True), bool):
        raise invalid("store", "'store' must be true or false")
    _check_metadata(known.get("metadata", {}))
    if "tools" in known:
        tools = known["tools"]
        chat["tools"] = [_tool(tool) for tool in tools] if isinstance(tools, list) else tools
    if "tool_choice" in known:
        chat["tool_choice"] = _tool_choice(known["tool_choice"])
    if (text := known.get("text")) is not None:
        chat |= _text(text)
    if (reasoning := known.get("reasoning")) is not None:
        chat |= _reasoning(reasoning)
    return chat


def _check_metadata(labels: Any) -> None:
    """Raise `ApiError` 400 for labels that OpenAI would not take: responses repeat them."""
    if not isinstance(labels, dict):
        raise invalid("metadata", "'metadata' must be an object of texts")
    if len(labels) > MAX_LABELS:
        count = f"'metadata' has {len(labels)} texts"
        raise invalid("metadata", f"{count}; at most {MAX_LABELS} are allowed")
    for name, text in labels.items():
        place = f"metadata.{cut(name)}"
        if len(name) > MAX_LABEL_NAME:
            raise invalid(place, f"a name in 'metadata' has more than {MAX_LABEL_NAME} characters")
        if not isinstance(text, str) or len(text) > MAX_LABEL:
            raise invalid(place, f"{place} must be a text of at most {MAX_LABEL} characters")


def _tool(tool: Any) -> Any:
    if not isinstance(tool, dict) or tool.get("type") != "function" or "function" in tool:
        return tool
    function = {name: value for name, value in tool.items() if name != "type"}
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> Any:
    match choice:
        case {"type": "function", "name": name}:
            return {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": mode, "tools": tools}:
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
    return choice


def _text(text: Any) -> Values:
    if not isinstance(text, dict):
        raise invalid("text", "'text' must be an object such as {\"format\": {...}}")
    known = unsupported_fields.keep_supported(text, ("format", "verbosity"), {}, where="text.")
    chat = {"verbosity": known["verbosity"]} if "verbosity" in known else {}
    form = known.get("format")
    if form is None or form == {"type": "text"}:
        return chat
    if isinstance(form, dict) and form.get("type") == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type"}
        form = {"type": "json_schema", "json_schema": schema}
    return {"response_format": form, **chat}


def _reasoning(reasoning: Any) -> Values:
    if not isinstance(reasoning, dict):
        raise invalid("reasoning", '\'reasoning\' must be an object such as {"effort": "low"}')
    known = unsupported_fields.keep_supported(reasoning, ("effort",), REASONING, where="reasoning.")
    return {"reasoning_effort": known["effort"]} if "effort" in known else {}


def _input_items(value: Any) -> list[Values]:
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise invalid("input", "'input' must be a text or a list with at least one item")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise invalid(f"input[{index}]", f"input[{index}] must be an object")
    return value


def _messages(
    instructions: Any, earlier: list[Values], new: list[Values], names: dict[str, str]
) -> list[Values]:
    """The turns of a chat; to `names` the place in the body that each part was made of is added."""
    messages: list[Values] = []
    if instructions is not None:
        if not isinstance(instructions, str):
            raise invalid("instructions", "'instructions' must be a text")
        messages.append({"role": "system", "content": instructions})
        names |= {"messages[0]": "instructions", "messages[0].content": "instructions"}
    numbered = [("an earlier item", item) for item in earlier]
    numbered += [(f"input[{index}]", item) for index, item in enumerate(new)]
    for place, item in numbered:
        _add(messages, names, place, item)
    return messages


def _add(messages: list[Values], names: dict[str, str], place: str, item: Values) -> None:
    """Add what an item says to the turns; calls join the turn of the assistant before them."""
    kind = item.get("type", "message")
    if kind == "reasoning":
        # What was thought before is not shown again.
        return
    if kind == "function_call":
        if item.get("status") == "incomplete":
            # Its arguments were cut: no call can be made of it.
            return
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
            names[f"messages[{len(messages) - 1}]"] = place
        calls = messages[-1].setdefault("tool_calls", [])
        path = f"messages[{len(messages) - 1}].tool_calls[{len(calls)}]"
        names |= {path: place, f"{path}.function": place, f"{path}.id": f"{place}.call_id"}
        calls.append(call)
        return
    path = f"messages[{len(messages)}]"
    if kind == "function_call_output":
        output = _content(item.get("output"))
        turn = {"role": "tool", "tool_call_id": item.get("call_id"), "content": output}
        names |= {
            f"{path}.content": f"{place}.output",
            f"{path}.tool_call_id": f"{place}.call_id",
        }
    elif kind == "message":
        unknown = ("type", "role", "content", "id", "status", "phase")
        unsupported_fields.keep_supported(item, unknown, {}, where=f"{place}.")
        turn = {"role": item.get("role"), "content": _content(item.get("content"))}
    else:
        raise invalid(
            f"{place}.type",
            f"{place}.type is {shown(kind)}: only message, function_call, function_call_output and "
            "reasoning are supported",
        )
    messages.append(turn)
    names[path] = place


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [_part(part) for part in content]


def _part(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    if isinstance(part, dict) and part.get("type") == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    return part
