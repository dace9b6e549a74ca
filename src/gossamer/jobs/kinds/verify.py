"""A request to prove that a result is served as it was trained: `gossamer verify` as a job."""

from typing import Annotated, Any

from pydantic import Field

from gossamer.settings import Settings

Prompt = Annotated[str, Field(min_length=1, max_length=4000)]


class VerificationRequest(Settings):
    """The body of a request for a verification."""

    model: Annotated[str, Field(min_length=1, max_length=255)]
    """Name of the result to verify."""

    prompts: Annotated[list[Prompt], Field(max_length=20)] = Field(default=[])
    """Texts that the base model and the result continue; unset: four unlike ones."""

    new_tokens: Annotated[int, Field(ge=1, le=256)] = 32
    """New tokens of each answer."""


def resolve_verification(request: VerificationRequest, *, base: str, model: str) -> dict[str, Any]:
    """What a request means, as plain values; `base` is the folder of the base model, `model` the
    result's own name."""
    return {
        "base": base,
        "model": model,
        "prompts": request.prompts,
        "new_tokens": request.new_tokens,
    }
