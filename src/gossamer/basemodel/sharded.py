"""Loads one rank's part of a model: transformers reads the slices, plain layers hold them.

Layers whose outputs are divided ("column" layers) compute some of their outputs on each rank; those
whose inputs are divided ("row" layers) compute a part of every sum. Who is which is said by the
model's own plan (`_tp_plan` of transformers); the runner of the layers adds up the sums.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gossamer.basemodel.pruned import is_pruned
from gossamer.errors import SettingError

Style = Literal["column", "row"]

_STYLES: dict[str, Style] = {
    "colwise": "column",
    "colwise_gather_output": "column",
    "rowwise": "row",
}
_COPIED = "replicate"
KEY_VALUE = ("k_proj", "v_proj")
"""Names of the layers that make keys and values."""


@dataclass(frozen=True, slots=True)
class ModelPart:
    """Which part of a model a process loads: that of `rank` of `size` ranks."""

    rank: int
    size: int


def head_counts(config: Any) -> tuple[int, int]:
    """Return the numbers of query heads and of key/value heads of a transformers config."""
    heads: int = config.num_attention_heads
    return heads, getattr(config, "num_key_value_heads", None) or heads


def allowed_sizes(config: Any) -> list[int]:
    """List the numbers of ranks on which a model with this transformers config can be divided.

    Each rank has as many query heads as every other, and all of their key/value heads, which are
    divided too, or copied where there are fewer of them than ranks.
    """
    heads, kv_heads = head_counts(config)
    return [
        size
        for size in range(1, heads + 1)
        if heads % size == 0
        and (kv_heads % size == 0 or size % kv_heads == 0)
        and config.intermediate_size % size == 0
    ]


def check_size(config: Any, size: int) -> None:
    """Raise `SettingError` if a model with this config cannot be divided among `size` ranks."""
    if size > 1 and is_pruned(config):
        raise SettingError(
            f"tensor_parallel={size}: the layers of this pruned model have widths of their own, "
            "and such models are not divided; serve it with tensor_parallel=1"
        )
    allowed = allowed_sizes(config)
    if size not in allowed:
        heads, kv_heads = head_counts(config)
        raise SettingError(
            f"tensor_parallel={size}: a model with {heads} attention heads, {kv_heads} key/value "
            f"heads and an intermediate size of {config.intermediate_size} can be divided among "
            f"{', '.join(map(str, allowed))}"
        )


def kv_heads_of(part: ModelPart, kv_heads: int) -> range:
    """Return the key/value heads of a rank; several ranks have the same one if there are few."""
    first = part.rank * kv_heads // part.size
    return range(first, first + max(1, kv_heads // part.size))


def copies_kv_heads(config: Any, size: int) -> bool:
    """Whether there are fewer key/value heads than ranks, so that ranks share some."""
    return size > head_counts(config)[1]


def styles_of(plan: Mapping[str, str], paths: list[str]) -> dict[str, Style]:
    """Return how each module of `paths` is divided by a transformers plan; whole ones are left out.

    Module paths of a plan have `*` for each number.
    """
    found = {}
    for path in paths:
        named = plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", path), "")
        is_copied = named == _COPIED and path.rsplit(".", 1)[-1] in KEY_VALUE
        style = "column" if is_copied else _STYLES.get(named)
        if style is not None:
            found[path] = style
    return found


def loading_options(config: Any, part: ModelPart) -> dict[str, Any]:
    """Return what `from_pretrained` is told so that it loads a part; a process group must exist."""
    from transformers.distributed import DistributedConfig

    plan: dict[str, str] = {}
    if copies_kv_heads(config, part.size):
        # Dividing them would cut heads; `keep_local` takes the rank's own out of the whole.
        plan = {f"model.layers.*.self_attn.{name}": _COPIED for name in KEY_VALUE}
    return {"distributed_config": DistributedConfig(tp_size=part.size, tp_plan=plan or None)}


def cut_whole(model: Any, part: ModelPart) -> None:
    """Leave of the parameters of a whole model those of one rank, to tell their sizes; biases of
    layers whose inputs are divided stay, as on rank 0."""
    from torch import nn

    styles = styles_of(model._tp_plan, [path for path, _ in model.named_modules()])
    own = kv_heads_of(part, head_counts(model.config)[1])
    kept: dict[int, nn.Parameter] = {}
    for path, module in model.named_modules():
        style = styles.get(path)
        is_embedding = isinstance(module, nn.Embedding)
        for name, parameter in list(module.named_parameters(recurse=False)):
            tensor = parameter
            if style == "row" and name == "weight":
                tensor = parameter[:, : -(-parameter.shape[1] // part.size)]
            elif style == "column" and path.rsplit(".", 1)[-1] in KEY_VALUE:
                width = len(parameter) // head_counts(model.config)[1]
                tensor = parameter[: len(own) * width]
            elif style == "column" or is_embedding:
                tensor = parameter[: -(-len(parameter) // part.size)]
            if id(parameter) not in kept:
                kept[id(parameter)] = nn.Parameter(tensor.detach(), requires_grad=False)
            module.register_parameter(name, kept[id(parameter)])
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape


def keep_local(model: Any, part: ModelPart) -> None:
    """Make every parameter of a model that was loaded in parts a plain tensor of the rank's own.

    What transformers does around the layers is taken off: `forward` of a divided layer gives the
    rank's outputs, or its part of the sums, and of a row layer rank 0 alone has the bias.
    """
    from torch import nn

    styles = styles_of(model._tp_plan, [path for path, _ in model.named_modules()])
    own = kv_heads_of(part, head_counts(model.config)[1])
    copies = copies_kv_heads(model.config, part.size)
    kept: dict[int, nn.Parameter] = {}
    for path, module in model.named_modules():
        # A wrapper of transformers, of this object alone.
        vars(module).pop("forward", None)
        for name, parameter in list(module.named_parameters(recurse=False)):
            tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            if copies and path.rsplit(".", 1)[-1] in KEY_VALUE:
                width = len(tensor) // head_counts(model.config)[1]
                tensor = tensor[own.start * width : own.stop * width].clone()
            if id(parameter) not in kept:  # tied ones stay one
                kept[id(parameter)] = nn.Parameter(tensor.detach(), requires_grad=False)
            has_none = styles.get(path) == "row" and name == "bias" and part.rank > 0
            module.register_parameter(name, None if has_none else kept[id(parameter)])
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
