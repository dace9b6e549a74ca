"""Bodies of calls as strict models: a wrong field is named in one sentence."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from gossamer.errors import cut, unknown_name_message
from gossamer.serving.http.auth import caller_of
from gossamer.serving.http.body import decode, read_body
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.unsupported_fields import shown


class StrictBody(BaseModel):
    """Base of the bodies: unknown fields are refused with the nearest known one."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Check a decoded JSON object; raise `ApiError` 400 that names the field."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _problem(cls, error.errors(include_url=False)[0]) from None


def _problem(cls: type[BaseModel], first: Any) -> ApiError:
    place = ".".join(str(part) for part in first["loc"])
    name = cut(place) or "body"
    if first["type"] == "extra_forbidden":
        known = cls.model_fields if len(first["loc"]) == 1 else ()
        message = (
            unknown_name_message("field", str(first["loc"][-1]), known)
            if known
            else f"unknown field '{name}'; leave it out"
        )
        return ApiError(400, message, code="unknown_parameter", param=name)
    given = "" if first["type"] == "missing" else f" = {shown(first['input'])}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return ApiError(400, f"'{name}'{given}: {message}", code="invalid_value", param=name)


async def read_object(http: Request) -> dict[str, Any]:
    """Read the body as a JSON object; raises `ApiError` or `ClientGoneError`."""
    context = Context.of(http)
    content = await read_body(http, context.settings.max_body_bytes)
    return await context.threads.run(caller_of(http).tenant, lambda: decode(content))
