"""How a load test talks to the server; what it asks for is a `Workload`."""

from typing import Literal

from pydantic import Field

from gossamer.settings import Settings


class ClientSettings(Settings):
    """The server's peculiarities, and what counts as good service."""

    prompt: Literal["tokens", "text"] = "tokens"
    """tokens: prompts are sent as token ids, so their lengths are exact; text: as random words of
    about that many tokens, for servers that take no ids."""
    vocabulary: int = Field(default=32000, ge=256)
    """Token ids are drawn below this number; it must not exceed the model's vocabulary."""
    ignore_eos: bool = True
    """Send `ignore_eos`, so that every answer is as long as the workload says; off for servers that
    refuse the field."""
    slo: float = Field(default=6.0, gt=0, allow_inf_nan=False)
    """Seconds within which a first token counts as in time."""
    timeout: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """Seconds after which a request is given up."""
