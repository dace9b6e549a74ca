"""Describes routes as an OpenAPI document.

Bodies are read by hand, so the framework knows nothing of them: their schemas are made here of the
classes that parse them.
"""

import re
from collections.abc import Iterable
from types import ModuleType
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic.fields import FieldInfo

from gossamer.serving.http.anthropic import schema as messages
from gossamer.serving.http.openai.request_schema import ChatBody, CompletionBody
from gossamer.serving.http.openai.responses_api import schema as responses
from gossamer.serving.http.routes import adapters
from gossamer.version import VERSION

BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/adapters": adapters.LoadBody,
    "/v1/load_lora_adapter": adapters.LoadLoraBody,
    "/v1/unload_lora_adapter": adapters.UnloadLoraBody,
}
"""The classes that parse the bodies of POST, by route."""

_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": _TEXT,
            "content": {
                "anyOf": [
                    _TEXT,
                    {"type": "array", "items": {"type": "object", "required": ["type"]}},
                    {"type": "null"},
                ]
            },
        },
    },
}
SHAPES: dict[str, dict[str, Any]] = {
    "messages": _MESSAGES,
    "prompt": {"anyOf": [_TEXT, _TEXTS, _IDS, {"type": "array", "items": _IDS}]},
    "stop": {"anyOf": [_TEXT, _TEXTS, {"type": "null"}]},
    "bad_words": _TEXTS,
    "stop_token_ids": _IDS,
    "logit_bias": {"type": "object", "additionalProperties": {"type": "number"}},
    "stream_options": {"type": "object"},
    "tools": {"type": "array", "items": {"type": "object"}},
    "tool_choice": {"anyOf": [_TEXT, {"type": "object"}]},
    "chat_template_kwargs": {"type": "object"},
}
"""What fields take that are parsed into something else."""

_TOKENS: dict[str, dict[str, Any]] = {
    "/tokenize": {
        "type": "object",
        "properties": {
            "model": _TEXT,
            "prompt": _TEXT,
            "messages": _MESSAGES,
            "add_special_tokens": _FLAG,
            "return_token_strs": _FLAG,
        },
        "oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}],
    },
    "/detokenize": {
        "type": "object",
        "required": ["tokens"],
        "properties": {"model": _TEXT, "tokens": _IDS},
    },
}
_TRANSLATED: dict[str, tuple[str, ModuleType, tuple[str, ...]]] = {
    "/v1/responses": ("ResponsesBody", responses, responses.REQUIRED),
    "/v1/messages": ("MessagesBody", messages, messages.REQUIRED),
    "/v1/messages/count_tokens": ("CountedBody", messages, messages.REQUIRED_TO_COUNT),
}
"""The bodies that are turned into a chat: names, modules that describe them, required fields."""
_REFERENCE = "#/components/schemas/{model}"


def describe(routers: Iterable[APIRouter], *, needs_key: bool) -> dict[str, Any]:
    """Build the document of all routes of `routers`, but those that are left out of schemas.

    Each answers GET with HEAD too, which is not told again.
    """
    schemas: dict[str, Any] = {}
    bodies = {path: _body(kind, schemas) for path, kind in BODIES.items()} | _TOKENS
    bodies |= {path: _translated(path, schemas) for path in _TRANSLATED}
    paths: dict[str, dict[str, Any]] = {}
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, APIRoute) and route.include_in_schema:
            # A parameter may be said to reach over slashes, which OpenAPI cannot say.
            path = re.sub(r":\w+}", "}", route.path)
            operations = paths.setdefault(path, {})
            for method in sorted((route.methods or set()) - {"HEAD"}):
                body = bodies.get(path) if method == "POST" else None
                operations.setdefault(method.lower(), _operation(route, path, body))
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Gossamer", "version": VERSION},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _operation(route: APIRoute, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    said = " ".join((route.endpoint.__doc__ or "").split())
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": said.partition(". ")[0].rstrip("."),
        "description": said,
        "responses": {
            "200": {"description": "The answer"},
            "4XX": {"description": "An error: its message names the value and the remedy"},
        },
    }
    if names := re.findall(r"{(\w+)}", path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names
        ]
    if body is not None:
        content = {"application/json": {"schema": body}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _body(kind: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """Put the schema of a body among `schemas`; returns what refers to it."""
    fields = kind.model_fields
    schemas[kind.__name__] = {
        "type": "object",
        "description": (kind.__doc__ or "").strip(),
        "required": [name for name, info in fields.items() if info.is_required()],
        "properties": {name: _field(name, info, schemas) for name, info in fields.items()},
    }
    return {"$ref": _REFERENCE.format(model=kind.__name__)}


def _translated(path: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """Put the schema of a body that becomes a chat among `schemas`; returns what refers to it."""
    name, described, required = _TRANSLATED[path]
    fields = ChatBody.model_fields
    schemas[name] = {
        "type": "object",
        "description": f"The body of POST {path}.",
        "required": list(required),
        "properties": {
            **{same: _field(same, fields[same], schemas) for same in described.OF_CHATS},
            **described.FIELDS,
        },
    }
    return {"$ref": _REFERENCE.format(model=name)}


def _field(name: str, info: FieldInfo, schemas: dict[str, Any]) -> dict[str, Any]:
    if name in SHAPES:
        return SHAPES[name]
    if any(isinstance(rule, BeforeValidator) for rule in info.metadata):
        return {}  # Anything: what is allowed is told when it is parsed.
    try:
        kind: Any = info.annotation
        for rule in info.metadata:
            kind = Annotated[kind, rule]
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        schema = adapter.json_schema(ref_template=_REFERENCE)
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return {}
    schemas.update(schema.pop("$defs", {}))
    if not info.is_required() and isinstance(info.default, bool | int | float | str):
        schema["default"] = info.default
    return schema
