"""A model that learns by SparseGrad: probe, replace layers, put them back."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gossamer.errors import SettingError
from gossamer.methods.common.probe_loss import backward
from gossamer.methods.common.targets import linear_paths, resolve_targets
from gossamer.methods.sparsegrad.autograd import Select, plain, strided
from gossamer.methods.sparsegrad.basis import Basis, GradientModes
from gossamer.methods.sparsegrad.layer import SparseGradLinear
from gossamer.methods.sparsegrad.settings import SparseGradSettings


def apply_sparsegrad(
    model: Any, batches: Iterable[Mapping[str, Any]], settings: SparseGradSettings | None = None
) -> Any:
    """Replace layers of `model` in place by ones that learn; everything else is frozen.

    The gradients of `batches` (what the model's forward takes, labels included) give one basis per
    layer name. Use `SparseGradAdam(model, lr)` as the optimizer. Raises `SettingError` where the
    settings do not fit, the base is quantised, or several ranks train.
    """
    settings = settings or SparseGradSettings()
    layers = chosen_layers(model, settings)
    bases = _probe(model, layers, batches)
    model.requires_grad_(False)
    for path, layer in layers.items():
        basis = bases[_name(path)]
        _put(model, path, SparseGradLinear(layer, basis, _select(layer, settings)))
    return model


def chosen_layers(model: Any, settings: SparseGradSettings) -> dict[str, nn.Linear]:
    """Return the layers that learn, by path."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if several:
        raise SettingError("method 'sparsegrad' trains on one rank only; use method 'smt'")
    ends = resolve_targets(model, settings.modules)
    by_name: dict[str, list[str]] = {}
    for path in linear_paths(model):
        if any(path == end or path.endswith(f".{end}") for end in ends):
            by_name.setdefault(_name(path), []).append(path)
    paths = [path for same in by_name.values() for path in same[:: settings.layer_step]]
    layers = {path: model.get_submodule(path) for path in paths}
    for path, layer in layers.items():
        if type(layer) is not nn.Linear or not layer.weight.is_floating_point():
            raise SettingError(
                f"method 'sparsegrad' trains whole weights in full precision; '{path}' is a "
                f"{type(layer).__name__}"
            )
    for name, same in by_name.items():
        shapes = {tuple(layers[path].weight.shape) for path in same if path in layers}
        if len(shapes) > 1:
            raise SettingError(f"modules: layers '{name}' have several shapes and no common basis")
    return layers


def sparsegrad_layers(model: Any) -> dict[str, SparseGradLinear]:
    """Return the layers that learn, by path."""
    return {p: m for p, m in model.named_modules() if isinstance(m, SparseGradLinear)}


@contextmanager
def mapped_back(model: Any) -> Iterator[Any]:
    """Put plain linear layers with what was learnt into `model`, while the context lasts."""
    layers = sparsegrad_layers(model)
    for path, layer in layers.items():
        with torch.device("meta"):
            linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        linear.weight = nn.Parameter(layer.dense_weight(), requires_grad=False)
        linear.bias = layer.bias
        _put(model, path, linear)
    try:
        yield model
    finally:
        for path, layer in layers.items():
            _put(model, path, layer)


def _probe(
    model: Any, layers: Mapping[str, nn.Linear], batches: Iterable[Mapping[str, Any]]
) -> dict[str, Basis]:
    modes: dict[str, GradientModes] = {}
    handles = []
    model.requires_grad_(False)
    for path, layer in layers.items():
        rows, columns = layer.weight.shape
        if layer.weight.is_meta:
            return {_name(p): _no_basis(one.weight) for p, one in layers.items()}
        found = modes.setdefault(_name(path), GradientModes(rows, columns, layer.weight.device))
        layer.weight.requires_grad_(True)
        watch: Any = layer.weight.register_post_accumulate_grad_hook
        handles.append(watch(_adder(found)))
    for batch in batches:
        backward(model, batch)
    for handle in handles:
        handle.remove()
    return {name: found.basis() for name, found in modes.items()}


def _adder(modes: GradientModes) -> Any:
    def add_and_free(weight: Tensor) -> None:
        assert weight.grad is not None
        modes.add(weight.grad)
        weight.grad = None

    return add_and_free


def _no_basis(weight: Tensor) -> Basis:
    rows, columns = weight.shape
    return Basis(weight.new_empty(columns, columns), weight.new_empty(rows, rows))


def _select(layer: nn.Linear, settings: SparseGradSettings) -> Select:
    count = max(1, round(settings.share * layer.weight.numel()))
    if settings.product == "plain":
        return plain(count, settings.threshold)
    return strided(count, settings.threshold, settings.strided_energy)


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _put(model: Any, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
