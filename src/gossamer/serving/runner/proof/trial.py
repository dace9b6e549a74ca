"""Judges a loaded model before our layers stand in it, and after: both must say the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gossamer.basemodel.pruned import FAMILIES, family_of
from gossamer.errors import GossamerError, UnsupportedModelError, one_line
from gossamer.serving.device.device import Device
from gossamer.serving.runner.batch import BatchBuilder
from gossamer.serving.runner.model_runner import PagedModel
from gossamer.serving.runner.proof import record
from gossamer.serving.runner.proof.expect import Expectation, expect
from gossamer.serving.runner.proof.prove import prove
from gossamer.serving.shard import Shard


class ModelTrial:
    """One model on its way from transformers to the server."""

    def __init__(self, model: Any, device: Device, shard: Shard, quantization: str) -> None:
        """`model` is as transformers has loaded it, and is asked now unless it was proved before.

        Raises `UnsupportedModelError` for a model that cannot be divided among ranks.
        """
        self._family = str(model.config.model_type)
        self._expected: Expectation | None = None
        self._is_judged = False
        self._left_out: list[str] | None = None
        self._name = ""
        if not shard.is_whole:
            # A rank has a part of the model, which alone says nothing.
            if family_of(self._family) not in FAMILIES:
                raise UnsupportedModelError(
                    f"models of architecture '{self._family}' are not divided among processes; "
                    f"serve it without --tensor-parallel (divided are {', '.join(FAMILIES)})"
                )
            return
        if device.backend == "triton" and device.torch_device.type == "cpu":
            # Kernels that are interpreted take minutes, and are for tests alone.
            return
        facts = (device.backend, str(device.dtype), quantization)
        self._name = record.digest(model, *facts)
        self._left_out = record.read(self._name)
        self._is_judged = self._left_out is None
        if self._is_judged:
            with self.explained():
                self._expected = expect(model)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Tell of what fails meanwhile that this model cannot be served.

        Raises `UnsupportedModelError`; errors of ours and those of memory and files go through.
        """
        refused = f"models of architecture '{self._family}' cannot be served: "
        try:
            yield
        except UnsupportedModelError as error:
            text = str(error)
            raise UnsupportedModelError(text if self._family in text else refused + text) from error
        except (GossamerError, MemoryError, OSError):
            raise
        except Exception as error:
            if not self._is_judged or "out of memory" in str(error):
                raise
            raise UnsupportedModelError(
                f"{refused}{type(error).__name__}: {one_line(str(error), 200)}"
            ) from error

    def check(
        self, paged: PagedModel, builder: BatchBuilder, num_blocks: int, block_tokens: int
    ) -> None:
        """Compare, unless that was done before. Nothing lies in the pool yet.

        Raises `UnsupportedModelError` saying what differs.
        """
        if self._left_out is not None:
            paged.modules.leave_out(self._left_out)
        if self._expected is None:
            return
        before = set(paged.modules.shapes)
        with self.explained():
            prove(paged, builder, num_blocks, block_tokens, self._expected)
        record.remember(self._name, sorted(before - set(paged.modules.shapes)))
