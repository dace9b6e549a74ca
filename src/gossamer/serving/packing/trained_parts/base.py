"""What the base model has where adapters may have trained parts of their own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseParts:
    """The vectors and tables of a base model, each a number or a tensor that does not change."""

    vector_ids: Mapping[str, int] = field(default_factory=dict)
    """Numbers of the weights and biases of norms and of the biases of linear layers, by name; a
    linear layer's bias has one whether or not the base has the bias."""
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    """The vectors that the base has, float32 [n] in host memory, by name."""
    embedding: str = ""
    """Module path of the embedding."""
    output: str = ""
    """Module path of the output layer."""
    is_tied: bool = False
    """Whether both are one."""
    rows: Tensor | None = None
    """The embedding's weight [tokens, width], wherever the model is; None: a rank has a share."""
    norms_before: bool = False
    """Whether each decoder block norms before attention and before the MLP, and nowhere else."""

    @property
    def num_vectors(self) -> int:
        """How many numbers of vectors there are."""
        return len(self.vector_ids)
