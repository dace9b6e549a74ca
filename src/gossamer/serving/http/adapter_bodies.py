"""The bodies of requests that load, unload and pin adapters."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gossamer.errors import cut
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.fields import shown


class AdapterBody(BaseModel):
    """What these bodies have in common."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Check a decoded JSON object; raise `ApiError` 400 that names the field."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = cut(".".join(map(str, first["loc"]))) or "body"
            given = "" if first["type"] == "missing" else f" = {shown(first['input'])}"
            message = f"'{name}'{given}: {first['msg'].lower()}"
            raise ApiError(400, message, code="invalid_value", param=name) from None


class LoadLoraBody(AdapterBody):
    """POST /v1/load_lora_adapter."""

    lora_name: str = Field(min_length=1)
    """Name to serve it under."""
    lora_path: str = Field(min_length=1)
    """Its folder: absolute, or relative to a folder of `--adapters`; always below one of these."""
    load_inplace: bool = False
    """Replace another adapter of that name; its accepted requests end with it."""


class UnloadLoraBody(AdapterBody):
    """POST /v1/unload_lora_adapter."""

    lora_name: str = Field(min_length=1)
    """Name to take away."""


class LoadBody(AdapterBody):
    """POST /v1/adapters."""

    name: str = Field(min_length=1)
    """Name to serve it under."""
    path: str | None = Field(None, min_length=1)
    """Its folder: absolute, or relative to a folder of `--adapters`; always below one of these.
    Unset: the one that lies there under its name, such as one that was unloaded."""
    replace: bool = False
    """Replace another adapter of that name; its accepted requests end with it."""
    pin: bool = False
    """Place it in the pool and keep it there."""


BODIES = (LoadBody, LoadLoraBody, UnloadLoraBody)
