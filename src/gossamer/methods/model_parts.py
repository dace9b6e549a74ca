"""What a method asks of a base model: its layers by number, its norms, whether it is quantised."""

from collections.abc import Sequence
from typing import Any

from gossamer.errors import SettingError
from gossamer.methods.targets import linear_paths, resolve_targets

_QUANTIZED = ("Linear4bit", "Linear8bitLt")


def check_layers(model: Any, layers: Sequence[int] | None) -> None:
    """Raise `SettingError` if `layers` is empty or names a decoder layer that is not there."""
    count = layer_count(model)
    if layers is not None and not layers:
        raise SettingError("layers is empty; leave it out to adapt all layers")
    for layer in layers or []:
        if layer >= count:
            raise SettingError(f"layers: there is no layer {layer}; the model has 0 to {count - 1}")


def layer_count(model: Any) -> int:
    """Decoder layers of `model`."""
    return int(model.config.get_text_config().num_hidden_layers)


def select_targets(
    model: Any, wanted: str | Sequence[str], layers: Sequence[int] | None
) -> list[str]:
    """As `resolve_targets`; with `layers`, the full paths of those targets in these layers only.

    For tuners whose configuration cannot say which layers are meant.
    """
    names = resolve_targets(model, wanted)
    check_layers(model, layers)
    if layers is None:
        return names
    chosen = [
        path
        for path in linear_paths(model)
        if any(path == name or path.endswith(f".{name}") for name in names)
        and any(step.isdigit() and int(step) in layers for step in path.split("."))
    ]
    if not chosen:
        raise SettingError(f"layers {list(layers)} hold none of target_modules {list(wanted)}")
    return sorted(chosen)


def norm_paths(model: Any) -> list[str]:
    """Paths of all normalisation layers with weights, such as `model.layers.0.input_layernorm`."""
    return [
        path
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None
    ]


def is_quantized(model: Any) -> bool:
    """Whether linear layers of `model` are held in 4 or 8 bits."""
    return any(type(module).__name__ in _QUANTIZED for module in model.modules())


def refuse_quantized(model: Any, method: str, reason: str) -> None:
    """Raise `SettingError` that gives `reason` if `model` is held in 4 or 8 bits."""
    if is_quantized(model):
        raise SettingError(
            f"method '{method}' cannot learn on a quantised base: {reason}; use the base model in "
            "full precision, or method 'qlora'"
        )


def is_meta(model: Any) -> bool:
    """Whether `model` has no weights and is only to be counted."""
    return any(parameter.is_meta for parameter in model.parameters())


def learn_in_float32(model: Any) -> Any:
    """Make float32 of every weight that learns: in bfloat16 small steps would be rounded away."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model
