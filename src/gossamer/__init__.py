"""Fine-tune one language model in thousands of cheap ways and serve all the results."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from gossamer.errors import GossamerError
    from gossamer.llm import LLM
    from gossamer.serving.core.messages import SamplingParams, StructuredOutputs
    from gossamer.training.comparison.compare import compare
    from gossamer.training.run import tune

__all__ = ["LLM", "GossamerError", "SamplingParams", "StructuredOutputs", "compare", "tune"]

# OpenMP's threads spin at every barrier, which starves others on the processor: beside two
# busy processes a training step on two cores took 45 to 60 s, and 20 s without it. Alone on the
# machine it costs nothing (a decode step took 107 ms both ways). Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Where each public name lives; imported when first used, so that `import gossamer` is instant.
_HOMES = {
    "GossamerError": "gossamer.errors",
    "LLM": "gossamer.llm",
    "SamplingParams": "gossamer.serving.core.messages",
    "StructuredOutputs": "gossamer.serving.core.messages",
    "compare": "gossamer.training.comparison.compare",
    "tune": "gossamer.training.run",
}

_TUNING = ("compare", "tune")
"""Names that the base install does not offer."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("gossamer.version").VERSION
    if name not in _HOMES:
        raise AttributeError(f"module 'gossamer' has no attribute '{name}'")
    if name in _TUNING:
        import_module("gossamer.extras").require(f"gossamer.{name}", "tune")
    return getattr(import_module(_HOMES[name]), name)
