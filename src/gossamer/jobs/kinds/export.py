"""A request to export a result: `gossamer adapters merge` and `convert` as a job."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from gossamer.errors import RequestError
from gossamer.settings import Settings


class ExportRequest(Settings):
    """The body of a request for an export."""

    model: Annotated[str, Field(min_length=1, max_length=255)]
    """Name of the result to export."""

    format: Literal["merged", "lora"] = "merged"
    """What to make: the whole base model with the adapter folded in, or a plain LoRA adapter that
    PEFT alone can load."""

    rank: Annotated[int, Field(ge=1)] | None = None
    """Rank of the LoRA where single weights were changed, which a LoRA holds only in part."""

    max_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Largest relative error of the change of any matrix of such a LoRA, such as 0.1."""


def folder_name(model: str) -> str:
    """A name for a folder: of `ft:base:tenant:pirate:id`, that is `pirate`."""
    fields = model.split(":")
    name = (fields[3] or fields[1]) if len(fields) > 4 else model
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "adapter"


def resolve_export(request: ExportRequest, *, base: str, model: str) -> dict[str, Any]:
    """What a request means, as plain values.

    `base` is the folder of the base model, `model` the result's own name; the request may have
    another one that its owner has given it.

    Raises `RequestError` for settings of a LoRA with another format.
    """
    for param in ("rank", "max_error"):
        if request.format != "lora" and getattr(request, param) is not None:
            raise RequestError(f"{param} is for format 'lora'", param=param)
    return {
        "base": base,
        "model": model,
        "name": f"{folder_name(request.model)}-{request.format}",
        "format": request.format,
        "rank": request.rank,
        "max_error": request.max_error,
    }
