"""Tools for chat templates that know nothing of tools: as text, in the messages that they do know.

The text offers the tools in the system message and asks for calls as JSON between `<tool_call>` and
`</tool_call>`, which is how most open models are taught to call (Hermes, Qwen). Earlier calls are
written so into the assistant's turns, and results into a user's turn, between `<tool_response>` and
`</tool_response>`. Tuning and serving share it, so that what is learnt is what is asked.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

ChatMessage = Mapping[str, Any]

_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_CODE = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)

_OFFER = """You may call functions. Their signatures, each as a JSON object:
<tools>
{tools}
</tools>
To call one, write its name and arguments as a JSON object between <tool_call> and </tool_call>:
<tool_call>
{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}
</tool_call>"""


@dataclass(frozen=True, slots=True)
class ToolSupport:
    """What a chat template writes of tools by itself."""

    offers: bool
    """Whether it reads the variable `tools`."""
    calls: bool
    """Whether it reads the calls in the assistant's turns."""


def tool_support(tokenizer: Any, *, has_tools: bool) -> ToolSupport:
    """Tell what the tokenizer's template for a conversation with or without tools writes."""
    template = tokenizer.get_chat_template(tools=[] if has_tools else None)
    return _support(str(template))


@lru_cache(16)
def _support(template: str) -> ToolSupport:
    text = _COMMENT.sub("", template)
    code = _LITERAL.sub("''", " ".join(_CODE.findall(text)))
    return ToolSupport(re.search(r"\btools\b", code) is not None, "tool_calls" in text)


def writable(
    tokenizer: Any, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]] | None
) -> tuple[list[ChatMessage], Sequence[Mapping[str, Any]] | None]:
    """Return messages and tools as the tokenizer's chat template can write them.

    Args:
        tokenizer: has the chat template.
        messages: with `tool_calls`, whose arguments are objects, and the role `tool` where there
            are any.
        tools: JSON schemas as `apply_chat_template` takes them; None or none: no tools.

    A template that reads tools and calls gets both as they are. One that reads no tools gets them,
    and the calls and results among the messages, as text; one that reads tools alone, the calls.
    """
    has_calls = any(m.get("tool_calls") or m.get("role") == "tool" for m in messages)
    if not (has_calls or tools):
        return list(messages), None
    support = tool_support(tokenizer, has_tools=bool(tools))
    if tools and not support.offers:
        offer = _OFFER.format(tools="\n".join(_json(tool) for tool in tools))
        return _with_offer(tokenizer, _with_calls_as_text(messages), offer), None
    is_text = has_calls and not support.calls
    return (_with_calls_as_text(messages) if is_text else list(messages)), tools or None


def _with_calls_as_text(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    changed: list[ChatMessage] = []
    results: list[str] = []

    def tell_results() -> None:
        if results:
            changed.append({"role": "user", "content": "\n".join(results)})
            results.clear()

    for message in messages:
        if message.get("role") == "tool":
            results.append(f"<tool_response>\n{message.get('content') or ''}\n</tool_response>")
            continue
        tell_results()
        calls = [_call(call) for call in message.get("tool_calls") or ()]
        if calls:
            content = "\n".join(filter(None, (message.get("content"), *calls)))
            message = {**message, "content": content}
        kept = {k: v for k, v in message.items() if k not in ("tool_calls", "tool_call_id")}
        changed.append(kept)
    tell_results()
    return changed


def _call(call: Mapping[str, Any]) -> str:
    function = call.get("function", call)
    said = {"name": function["name"], "arguments": function.get("arguments", {})}
    return f"<tool_call>\n{_json(said)}\n</tool_call>"


def _with_offer(tokenizer: Any, messages: list[ChatMessage], offer: str) -> list[ChatMessage]:
    """Add `offer` to the system message, or to the first one if the template takes no other."""
    first = messages[0] if messages else {}
    if first.get("role") == "system":
        return [_longer(first, f"{first['content']}\n\n{offer}"), *messages[1:]]
    if _takes_system(tokenizer, str(tokenizer.get_chat_template())):
        return [{"role": "system", "content": offer}, *messages]
    return [_longer(first, f"{offer}\n\n{first.get('content') or ''}"), *messages[1:]]


def _longer(message: ChatMessage, content: str) -> ChatMessage:
    return {**message, "content": content}


_TAKES_SYSTEM: dict[str, bool] = {}


def _takes_system(tokenizer: Any, template: str) -> bool:
    import jinja2

    if template not in _TAKES_SYSTEM:
        turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
        try:
            tokenizer.apply_chat_template(turns, tokenize=False)
            _TAKES_SYSTEM[template] = True
        except (jinja2.TemplateError, TypeError, ValueError):
            _TAKES_SYSTEM[template] = False
    return _TAKES_SYSTEM[template]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
