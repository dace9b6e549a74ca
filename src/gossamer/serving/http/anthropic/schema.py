"""Describes the body of POST /v1/messages, which is read by hand, as a JSON Schema."""

from typing import Any

from gossamer.serving.http.anthropic.translate import SAME

_TEXT = {"type": "string"}


def _block(kind: str, required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", *required],
        "properties": {"type": {"const": kind}, **properties},
    }


_TEXT_BLOCK = _block("text", ("text",), text=_TEXT)
_TEXTS = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT_BLOCK}]}
_BLOCKS = [
    _TEXT_BLOCK,
    _block("tool_use", ("name",), id=_TEXT, name=_TEXT, input={"type": "object"}),
    _block("tool_result", (), tool_use_id=_TEXT, content=_TEXTS, is_error={"type": "boolean"}),
    _block("thinking"),
    _block("redacted_thinking"),
]
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["user", "assistant", "system"]},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": _BLOCKS}}]},
    },
}
_TOOL = {
    "type": "object",
    "required": ["name", "input_schema"],
    "properties": {
        "type": {"const": "custom"},
        "name": _TEXT,
        "description": _TEXT,
        "input_schema": {"type": "object"},
        "input_examples": {"type": "array", "items": {"type": "object"}},
        "strict": {"type": "boolean"},
    },
}

FIELDS: dict[str, dict[str, Any]] = {
    "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
    "system": _TEXTS,
    "max_tokens": {"type": "integer", "minimum": 0},
    "stop_sequences": {"type": "array", "items": {"type": "string", "minLength": 1}},
    "tools": {"type": "array", "items": _TOOL},
    "tool_choice": {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": ["auto", "any", "tool", "none"]},
            "name": _TEXT,
            "disable_parallel_tool_use": {"type": "boolean"},
        },
    },
    "output_config": {
        "type": "object",
        "properties": {
            "format": _block("json_schema", ("schema",), schema={"type": "object"}),
            "effort": _TEXT,
        },
    },
    "thinking": {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": ["enabled", "disabled", "adaptive"]}},
    },
}
"""What the fields take that are this route's own."""

REQUIRED = ("model", "messages", "max_tokens")
REQUIRED_TO_COUNT = ("model", "messages")
OF_CHATS = SAME
"""The fields that take what they take in chats."""
