"""An adapter folder on its way into memory: its config, parsed once, and what it has to fit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.adapters.base_shape import BaseShape, compare_quantization, require_same_base
from gossamer.adapters.config import read_config
from gossamer.adapters.digest import digest_of
from gossamer.adapters.layout import BASE_KEY, QUANTIZATION_KEY
from gossamer.adapters.reading.budget import UNBOUND, Budget
from gossamer.adapters.reading.safetensors_file import OpenSafetensors, SafetensorsFile
from gossamer.adapters.weights import open_weights, require_finite


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """One adapter folder and the demands on it; what the loader of every kind is given."""

    folder: Path
    config: Mapping[str, Any]
    """The content of its config file."""
    linears: Mapping[str, tuple[int, int]] | None = None
    """(h_out, h_in) of each linear layer of the base model that can be adapted, by module path;
    None if the base model is unknown."""
    base: BaseShape | None = None
    """All sizes of the base model, if they are known."""
    base_fingerprint: str | None = None
    """An adapter that carries another fingerprint is refused; one that carries none is judged by
    its shapes alone."""
    base_quantization: str | None = None
    """How the base is quantised ("none": not at all); of an adapter that was trained on another
    precision is warned."""
    budget: Budget = UNBOUND
    """What exceeds it is refused before weights are read."""

    @classmethod
    def read(
        cls,
        folder: Path,
        *,
        base: BaseShape | None = None,
        linears: Mapping[str, tuple[int, int]] | None = None,
        base_fingerprint: str | None = None,
        base_quantization: str | None = None,
        budget: Budget = UNBOUND,
        config: Mapping[str, Any] | None = None,
    ) -> "AdapterSource":
        """Read the config in `folder`, of whatever type, unless it is given.

        Raises as `read_config`.
        """
        return cls(
            folder=folder,
            config=read_config(folder, budget.limits) if config is None else config,
            linears=base.linears if base is not None else linears,
            base=base,
            base_fingerprint=base_fingerprint,
            base_quantization=base_quantization,
            budget=budget,
        )

    @property
    def name(self) -> str:
        """Name of the adapter, as messages give it."""
        return self.folder.name

    @property
    def peft_type(self) -> str:
        """Type of the adapter in capitals, such as LORA."""
        return str(self.config["peft_type"]).upper()

    @contextmanager
    def open_weights(self) -> Iterator[OpenSafetensors]:
        """Open the weights file, which must be of the right base model; only its header is read.

        Raises `BaseMismatchError`, or as `weights.open_weights`.
        """
        with open_weights(self.folder, self.budget.limits) as file:
            noted = file.header.metadata
            require_same_base(self.name, noted.get(BASE_KEY), self.base_fingerprint)
            compare_quantization(self.name, noted.get(QUANTIZATION_KEY), self.base_quantization)
            yield file

    def read_finite(self, file: OpenSafetensors) -> SafetensorsFile:
        """Read all tensors; raises `AdapterFormatError` if one has a NaN or an infinity.

        The memory is ours, so that later changes of the file do no harm.
        """
        weights = file.read()
        require_finite(self.name, weights)
        return weights

    def digest(self, weights: SafetensorsFile) -> str:
        """Digest of the adapter's content."""
        return digest_of(self.config, weights)
