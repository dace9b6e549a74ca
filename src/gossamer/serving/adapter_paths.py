"""Where adapters may be loaded from at run time: inside allow-listed folders, nowhere else."""

from collections.abc import Iterable
from pathlib import Path

from gossamer.errors import AdapterFormatError, AdapterNotFoundError, RequestError
from gossamer.serving.adapter_folder import CONFIG, WEIGHTS, is_file


def find_allowed(text: str, roots: Iterable[Path]) -> Path:
    """The adapter folder `text`: a path below one of `roots`, relative to it or absolute.

    Links are followed before the place is judged, those of the files inside too.

    Raises:
        RequestError: a path outside the roots (whether it exists is not told), or with `..`.
        AdapterNotFoundError: no adapter there.
        AdapterFormatError: no safetensors file in it.
    """
    if not text or "\x00" in text or ".." in Path(text).parts:
        raise _outside(text)
    real_roots = [root.resolve() for root in roots]
    tried = [root / text for root in real_roots]
    inside = [path for path in tried if _is_inside(path, real_roots)]
    if not inside:
        raise _outside(text)
    found = next((path for path in inside if is_file(f"{path}/{CONFIG}")), None)
    if found is None:
        raise AdapterNotFoundError(f"'{text[:200]}' has no {CONFIG}; give the folder of an adapter")
    for name in (CONFIG, *WEIGHTS):
        if not _is_inside(found / name, real_roots):
            raise _outside(text)
    if not is_file(f"{found}/{WEIGHTS[0]}"):
        raise AdapterFormatError(
            f"'{text[:200]}' has no {WEIGHTS[0]}; other formats can run code and are not loaded"
        )
    return found.resolve()


def _is_inside(path: Path, roots: Iterable[Path]) -> bool:
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long
        return False
    return any(real.is_relative_to(root) for root in roots)


def _outside(text: str) -> RequestError:
    return RequestError(
        f"'{text[:200]}' is not below a folder of --adapters; adapters are loaded from there only",
        param="lora_path",
    )
