"""Which linear layers a method acts on: from what the user wrote to names found in the model."""

from collections.abc import Mapping, Sequence
from typing import Any

from gossamer.errors import SettingError, unknown_name_message

SHORTHANDS = ("all-linear", "attention", "mlp")

# A layer belongs to the part in whose module it sits: `layers.0.self_attn.q_proj`, `h.0.mlp.c_fc`.
_PARTS = {"attention": ("attn", "attention"), "mlp": ("mlp", "feed_forward", "ffn")}
_LINEAR_TYPES = ("Linear", "Linear4bit", "Linear8bitLt", "Conv1D")


def resolve_targets(model: Any, wanted: str | Sequence[str]) -> list[str]:
    """Names of the linear layers that `wanted` means in `model`, sorted.

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
    """Paths of all linear layers of `model`, the output head excepted."""
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
