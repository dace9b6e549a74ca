"""Which base model adapters were trained on, by what their configs say."""

from collections.abc import Sequence
from pathlib import Path

from gossamer.adapters.config import read_config
from gossamer.errors import UsageError


def common_base(folders: Sequence[Path], *, remedy: str) -> str:
    """The name of the base model that the configs of all adapters give.

    Raises `UsageError`, which ends with `remedy`, if they name none or several.
    """
    found = {str(read_config(folder).get("base_model_name_or_path") or "") for folder in folders}
    if len(found) != 1 or "" in found:
        listed = ", ".join(sorted(found - {""})) or "none"
        raise UsageError(f"the adapters' configs name these bases: {listed}; {remedy}")
    return found.pop()
