"""Which layers a method acts on: from what the user wrote to names found in the model."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from torch import nn

from gossamer.basemodel.pruned import has_uneven_heads, widths_of
from gossamer.errors import SettingError, UnsupportedAdapterError, unknown_name_message

SHORTHANDS = ("all-linear", "attention", "mlp")

# A layer belongs to the part in whose module it sits: `layers.0.self_attn.q_proj`, `h.0.mlp.c_fc`.
_PARTS = {"attention": ("attn", "attention"), "mlp": ("mlp", "feed_forward", "ffn")}
_LINEAR_TYPES = ("Linear", "Linear4bit", "Linear8bitLt", "Conv1D")


def resolve_targets(model: Any, wanted: str | Sequence[str]) -> list[str]:
    """Return the names of the linear layers that `wanted` means in `model`, sorted.

    `wanted` is a shorthand (see `SHORTHANDS`) or a list of layer names, each either the last part
    of a module's path (`q_proj`) or as much of its end as is needed (`layers.0.self_attn.q_proj`).
    The output head is never part of a shorthand. Raises `SettingError` naming the layers there are
    when something matches nothing, is not linear, or is the output head.
    """
    paths = linear_paths(model)
    if isinstance(wanted, str):
        return _resolve_shorthand(paths, wanted)
    if not wanted:
        raise SettingError(f"target_modules is empty; {_available(paths)}")
    modules = dict(model.named_modules())
    for name in wanted:
        if not any(_matches(path, name) for path in paths):
            raise SettingError(_no_match(name, paths, modules))
    return sorted(set(wanted))


def linear_paths(model: Any) -> list[str]:
    """Return the paths of all linear layers of `model`, the output head excepted."""
    find_head = getattr(model, "get_output_embeddings", None)
    head = find_head() if find_head is not None else None
    return [
        path
        for path, module in model.named_modules()
        if type(module).__name__ in _LINEAR_TYPES and module is not head
    ]


def _resolve_shorthand(paths: list[str], wanted: str) -> list[str]:
    if wanted not in SHORTHANDS:
        raise SettingError(
            f"{unknown_name_message('target_modules', wanted, SHORTHANDS)}; "
            "or give a list of layer names, e.g. [q_proj, v_proj]"
        )
    chosen = {path.rsplit(".", 1)[-1] for path in paths if _in_part(path, wanted)}
    if not chosen:
        raise SettingError(f"target_modules '{wanted}' matches no layer; {_available(paths)}")
    return sorted(chosen)


def _in_part(path: str, part: str) -> bool:
    if part == "all-linear":
        return True
    return any(mark in step for step in path.split(".")[:-1] for mark in _PARTS[part])


def _matches(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _no_match(name: str, paths: list[str], modules: Mapping[str, Any]) -> str:
    others = [path for path in modules if _matches(path, name)]
    if not others:
        return f"target_modules: '{name}' matches no layer; {_available(paths)}"
    found = type(modules[others[0]]).__name__
    if found in _LINEAR_TYPES:
        return f"target_modules: '{name}' is the output head, which cannot be a target"
    return f"target_modules: '{name}' is a {found}, not a linear layer; {_available(paths)}"


def _available(paths: list[str]) -> str:
    return "available: " + ", ".join(sorted({path.rsplit(".", 1)[-1] for path in paths}))


_QUANTIZED = ("Linear4bit", "Linear8bitLt")


def check_layers(model: Any, layers: Sequence[int] | None) -> None:
    """Raise `SettingError` if `layers` is empty or names a decoder layer that is not there."""
    count = layer_count(model)
    if layers is not None and not layers:
        raise SettingError("layers is empty; leave it out to adapt all layers")
    for layer in layers or []:
        if layer >= count:
            raise SettingError(f"layers: there is no layer {layer}; the model has 0 to {count - 1}")


def find_blocks(model: Any, method: str) -> tuple[str, nn.ModuleList]:
    """Find the list of decoder blocks of `model`: its path, and the list itself.

    Raises `UnsupportedAdapterError`, which names `method`, if there is none.
    """
    config = getattr(model, "config", None)
    count = layer_count(model) if config is not None else 0
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and "." in path
        # The module that holds the blocks is the one that is given the tokens.
        and "input_ids"
        in signature(model.get_submodule(path.rpartition(".")[0]).forward).parameters
    ]
    if not found:
        raise UnsupportedAdapterError(
            f"{type(model).__name__} has no list of decoder blocks, which {method} works on; it is "
            "for causal language models of transformers such as Llama, Mistral and Qwen"
        )
    return min(found, key=lambda item: item[0].count("."))


def layer_count(model: Any) -> int:
    """Count the decoder layers of `model`."""
    return int(model.config.get_text_config().num_hidden_layers)


def select_targets(
    model: Any, wanted: str | Sequence[str], layers: Sequence[int] | None
) -> list[str]:
    """Resolve targets as `resolve_targets`; with `layers`, full paths in these layers only.

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
    """Return the paths of all norms with weights, such as `model.layers.0.input_layernorm`."""
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


def refuse_uneven_heads(config: Any, method: str) -> None:
    """Raise `SettingError` for a pruned model whose layers have unlike numbers of heads."""
    if has_uneven_heads(config):
        raise SettingError(
            f"method '{method}' has as many heads in every layer, and this pruned model has "
            f"{min(widths_of(config).kv_heads)} to {max(widths_of(config).kv_heads)} key/value "
            "heads; use lora, or another method that acts on single layers"
        )


def learn_in_float32(model: Any) -> Any:
    """Make float32 of every weight that learns: in bfloat16 small steps would be rounded away."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model
