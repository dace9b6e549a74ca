"""Methods that are PEFT tuners: from settings to a `PeftConfig`; PEFT does the rest."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from peft import get_peft_model

from gossamer.methods.common.files import read_adapter, write_adapter
from gossamer.methods.common.method import Method, MethodContext, S


class PeftMethod(Method[S]):
    """A method whose result is an adapter in PEFT's layout. Subclasses define `peft_config`."""

    @abstractmethod
    def peft_config(self, model: Any, context: MethodContext) -> Any:
        """Make the `peft.PeftConfig` for `model`; raises `SettingError` if settings do not fit."""

    def prepare(self, model: Any, context: MethodContext) -> Any:
        return get_peft_model(model, self.peft_config(model, context))

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        write_adapter(
            model,
            folder,
            base_name=context.model_name,
            base_fingerprint=context.base_fingerprint,
        )

    def restore(self, model: Any, folder: Path) -> None:
        read_adapter(model, folder)
