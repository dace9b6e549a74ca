"""Settings of SparseGrad."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import MethodSettings

Count = Annotated[int, Field(ge=1)]


class SparseGradSettings(MethodSettings):
    """Settings of `sparsegrad`."""

    default_learning_rate = DefaultRate(
        3e-4,
        9e-5,
        source="a third of the best of a sweep on SmolLM2-135M; the released code for LLaMA-2",
    )

    share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the entries of each transformed gradient that is kept, the largest by magnitude."""

    modules: list[str] = Field(default=["up_proj", "down_proj"])
    """Names of the layers that learn; layers of one name share a basis."""

    layer_step: Count = 1
    """Adapt every n-th decoder layer; the released code for LLaMA-2 uses 3."""

    probe_batches: Count = 8
    """Batches whose gradients give the basis."""

    product: Literal["strided", "plain"] = "strided"
    """How the gradient is computed. plain: whole, then the largest entries. strided: only the rows
    and columns that carry most of its two factors, a small dense product."""

    strided_energy: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the squared size of each factor that the rows and columns of product=strided
    carry; 1 leaves out only what is zero."""

    threshold: Literal["magnitude", "signed"] = "magnitude"
    """magnitude: exactly the largest entries. signed: the rule of the released code, whose
    threshold is the smallest of the largest signed entries; it keeps about twice as many."""

    export: Literal["model", "low-rank", "sparse"] = "model"
    """What a run leaves: the whole model, or the change of each weight as a LoRA or SHiRA adapter,
    the smallest that meets export_error."""

    export_error: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Largest relative error (Frobenius) of the change of any weight in an adapter."""
