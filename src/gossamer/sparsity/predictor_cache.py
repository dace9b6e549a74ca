"""Factors of guesses on disk: made once per base model, checked whenever they are read."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gossamer.files import replacing
from gossamer.sparsity.frozen_linear import FrozenLinear
from gossamer.sparsity.predictor import PredictorFactors, factorise

_SAMPLES = 64


def weights_key(linears: Mapping[str, FrozenLinear], *, rank: int, digest: str | None) -> str:
    """A hash of what the factors depend on: the base model's digest, rank, and samples of weights.

    The samples tell apart what one base model may become: other number formats, and methods that
    change the frozen weights at the start, as PiSSA does.
    """
    state = hashlib.sha256(f"{digest}\0{rank}\0".encode())
    for name, linear in sorted(linears.items()):
        weight = linear.linear.weight.detach()
        flat = weight.reshape(-1)
        places = torch.linspace(0, flat.numel() - 1, _SAMPLES, dtype=torch.float64).long()
        values = flat[places.to(flat.device)].cpu()
        shape = (linear.out_features, linear.in_features)
        state.update(f"{name}\0{shape}\0{weight.dtype}\0".encode())
        state.update(values.contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def load_or_make(
    linears: Mapping[str, FrozenLinear],
    *,
    rank: int,
    digest: str | None,
    folder: Path | None,
    note: Callable[[str], None],
) -> dict[str, PredictorFactors]:
    """Factors of all `linears` by name; from the cache `folder` if they are there and whole.

    A damaged file is named through `note` and written again. None: no cache.
    """
    path = None
    if folder is not None and linears:
        path = folder / f"{weights_key(linears, rank=rank, digest=digest)}.safetensors"
        found = _read(path, linears, note) if path.exists() else None
        if found is not None:
            return found
    made = {name: factorise(linear, rank, linear.dtype) for name, linear in linears.items()}
    if path is not None:
        _write(path, made, note)
    return made


def _read(
    path: Path, linears: Mapping[str, FrozenLinear], note: Callable[[str], None]
) -> dict[str, PredictorFactors] | None:
    try:
        with safe_open(path, framework="pt") as stream:
            recorded = (stream.metadata() or {}).get("sha256")
            tensors = {key: stream.get_tensor(key) for key in sorted(stream.keys())}
    except (OSError, SafetensorError) as error:
        note(f"sparse compute: {path} cannot be read ({error}); it is made anew")
        return None
    wanted = {f"{name}.{end}" for name in linears for end in ("down", "up")}
    if recorded != _sha256(tensors) or tensors.keys() != wanted:
        note(f"sparse compute: {path} is damaged; it is made anew")
        return None
    return {
        name: PredictorFactors(
            down=tensors[f"{name}.down"].to(linear.device),
            up=tensors[f"{name}.up"].to(linear.device),
            bias=linear.bias(linear.dtype),
        )
        for name, linear in linears.items()
    }


def _write(
    path: Path, factors: Mapping[str, PredictorFactors], note: Callable[[str], None]
) -> None:
    """Write the factors, all or nothing; a cache that cannot be written costs only time."""
    tensors: dict[str, Tensor] = {}
    for name, factor in factors.items():
        tensors[f"{name}.down"] = factor.down.cpu()
        tensors[f"{name}.up"] = factor.up.cpu()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            save_file(tensors, scratch, metadata={"sha256": _sha256(tensors)})
    except (OSError, SafetensorError) as error:
        note(f"sparse compute: cannot write {path}: {getattr(error, 'strerror', None) or error}")


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        state.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        state.update(tensor.view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
