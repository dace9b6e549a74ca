"""Describes the body of POST /v1/responses, which is read by hand, as a JSON Schema."""

from typing import Any

from gossamer.serving.http.openai.responses_api.translate import (
    MAX_LABEL,
    MAX_LABEL_NAME,
    MAX_LABELS,
    SAME,
)

_TEXT = {"type": "string"}
_PART = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["input_text", "output_text", "text", "refusal"]},
        "text": _TEXT,
        "refusal": _TEXT,
    },
}
_PARTS = {"type": "array", "items": _PART}
_CONTENT = {"anyOf": [_TEXT, _PARTS]}
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "type": {"const": "message"},
        "role": {"enum": ["user", "assistant", "system", "developer"]},
        "content": {"anyOf": [_TEXT, _PARTS, {"type": "null"}]},
        "id": _TEXT,
        "status": _TEXT,
        "phase": _TEXT,
    },
    "additionalProperties": False,
}
_CALL = {
    "type": "object",
    "required": ["type", "name", "arguments"],
    "properties": {
        "type": {"const": "function_call"},
        "call_id": _TEXT,
        "name": _TEXT,
        "arguments": _TEXT,
    },
}
_OUTPUT = {
    "type": "object",
    "required": ["type", "output"],
    "properties": {
        "type": {"const": "function_call_output"},
        "call_id": _TEXT,
        "output": _CONTENT,
    },
}
_REASONING = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"const": "reasoning"}},
}
_FORMAT = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["text", "json_object", "json_schema"]},
        "name": _TEXT,
        "description": _TEXT,
        "schema": {"type": "object"},
        "strict": {"type": "boolean"},
    },
}
_TOOL = {
    "type": "object",
    "required": ["type", "name"],
    "properties": {
        "type": {"const": "function"},
        "name": _TEXT,
        "description": _TEXT,
        "parameters": {"type": "object"},
        "strict": {"type": "boolean"},
    },
}

FIELDS: dict[str, dict[str, Any]] = {
    "input": {
        "anyOf": [
            _TEXT,
            {
                "type": "array",
                "minItems": 1,
                "items": {"anyOf": [_MESSAGE, _CALL, _OUTPUT, _REASONING]},
            },
        ]
    },
    "instructions": _TEXT,
    "max_output_tokens": {"type": "integer", "minimum": 0},
    "tools": {"type": "array", "items": _TOOL},
    "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]},
    "text": {"type": "object", "properties": {"format": _FORMAT, "verbosity": _TEXT}},
    "previous_response_id": _TEXT,
    "store": {"type": "boolean"},
    "metadata": {
        "type": "object",
        "maxProperties": MAX_LABELS,
        "propertyNames": {"maxLength": MAX_LABEL_NAME},
        "additionalProperties": {"type": "string", "maxLength": MAX_LABEL},
    },
    "reasoning": {"type": "object", "properties": {"effort": _TEXT}},
}
"""What the fields take that are this route's own."""

REQUIRED = ("model", "input")
OF_CHATS = SAME
"""The fields that take what they take in chats."""
