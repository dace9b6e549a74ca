"""Puts our linear layers and our attention into a transformers model, in place.

The model's own code keeps running; no second copy of it is kept here. What a step needs is in one
shared `StepContext`, set by the runner before the model is called.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from gossamer.adapters.base_shape import BaseShape
from gossamer.basemodel.sharded import Style, styles_of
from gossamer.kernels.dense_linear import DenseLinear, keep_programs_for, make_dense_linear
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.hidden_edit import HiddenEdit, make_hidden_edit
from gossamer.serving.packing.base_linear import BaseLinear
from gossamer.serving.packing.trained_parts.base import BaseParts
from gossamer.serving.runner.layers import (
    FusedLinear,
    PlainLinear,
    SiblingLinear,
    StepContext,
    fuse_layers,
)
from gossamer.serving.runner.model_shape import decoder_blocks, kv_shape, layer_kv_heads
from gossamer.serving.runner.operations import MakeOperations, operations_of
from gossamer.serving.runner.split_operations import SplitOperations
from gossamer.serving.runner.trained_parts.base import (
    base_parts,
    lengths_of,
    norms_of,
    tables_of,
)
from gossamer.serving.runner.trained_parts.layers import (
    AdaptedEmbedding,
    AdaptedNorm,
    AdaptedOutput,
)
from gossamer.serving.runner.trained_parts.linear import LinearParts
from gossamer.serving.shard import WHOLE, Shard, ShardedEmbedding, Slices, slices_of, whole_shape

ATTENTION = "gossamer_paged"

# Linear layers of one parent that read the same input are computed as one.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True, slots=True)
class AdaptedModules:
    """The linear layers that adapters can act on."""

    ids: dict[str, int] = field(default_factory=dict)
    """Ids by module path; consecutive within a layer."""
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Shapes (h_out, h_in) by module path, of the whole layers."""
    linears: dict[str, BaseLinear] = field(default_factory=dict)
    """The base layers, by module path; those of a rank hold its share of them."""
    styles: dict[str, Style] = field(default_factory=dict)
    """How layers are divided among ranks, by module path; others are whole."""
    parts: BaseParts = field(default_factory=BaseParts)
    """Where adapters may have trained parts beside that."""

    def keep_called(self, calls: list[tuple[FusedLinear, int]], num_tokens: int) -> None:
        """Leave out layers that were not called once, with all of `num_tokens` tokens."""
        counts: dict[DenseLinear, list[int]] = {}
        for layer, count in calls:
            counts.setdefault(layer.dense, []).append(count)
        self.leave_out(
            [path for path, own in self.linears.items() if counts.get(own.dense) != [num_tokens]]
        )

    def leave_out(self, paths: Iterable[str]) -> None:
        """Let no adapter act on the layers at `paths`."""
        for path in paths:
            self.shapes.pop(path, None)


def attach(
    model: Any, pool: Tensor, backend: str, context: StepContext, rows: RowFormat | None = None,
    shard: Shard = WHOLE,
) -> AdaptedModules:  # fmt: skip
    """Replace the linear layers of a transformers model and select our attention.

    rows: the format of all low-rank rows; None: each adapter has its own. shard: which part of the
    whole `model` is. Returns the layers that adapters can act on.
    """
    linears = (each for each in model.modules() if isinstance(each, nn.Linear))
    keep_programs_for(len({(each.out_features, each.in_features) for each in linears}))
    modules = AdaptedModules(parts=base_parts(model, is_whole=shard.is_whole))
    operations = operations_of(pool, backend, rows)
    if not shard.is_whole:
        paths = [path for path, _ in model.named_modules()]
        modules.styles.update(styles_of(model._tp_plan, paths))
    output = model.get_output_embeddings()
    for parent_path, parent in list(model.named_modules()):
        if "experts" in parent_path.split("."):
            # An expert computes some of the tokens only: whose they are is not known there.
            continue
        for siblings in _groups(parent, output):
            _replace(
                parent_path, parent, siblings, modules, operations, pool, backend, context, shard
            )
    fuse_layers(model, backend)
    _replace_norms(model, modules.parts, pool, context)
    _edit_after_blocks(model, make_hidden_edit(pool, backend), context)
    _replace_ends(model, pool, backend, context, shard)
    _register_attention()
    model.set_attn_implementation(ATTENTION)
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.gossamer_context = context
    return modules


def _groups(parent: nn.Module, output: nn.Module) -> list[tuple[str, ...]]:
    """The linear children of `parent`, siblings together. The `output` layer is left alone."""
    names = [
        name
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and child is not output
    ]
    groups = [group for group in _SIBLINGS if set(group) <= set(names)]
    taken = {name for group in groups for name in group}
    return groups + [(name,) for name in names if name not in taken]


def _replace(
    parent_path: str, parent: nn.Module, names: tuple[str, ...], modules: AdaptedModules,
    operations: MakeOperations, pool: Tensor, backend: str, context: StepContext, shard: Shard,
) -> None:  # fmt: skip
    layers = [getattr(parent, name) for name in names]
    kv_heads = getattr(getattr(parent, "config", None), "num_key_value_heads", 1)
    ids = range(len(modules.ids), len(modules.ids) + len(names))
    dense = make_dense_linear(layers, backend)
    low = 0
    for module_id, name, layer in zip(ids, names, layers, strict=True):
        path = f"{parent_path}.{name}" if parent_path else name
        modules.ids[path] = module_id
        size = (layer.out_features, layer.in_features)
        modules.shapes[path] = whole_shape(size, path, modules.styles.get(path), shard, kv_heads)
        high = low + layer.out_features
        modules.linears[path] = BaseLinear(dense, low, high, len(names) == 1)
        low = high
    doing = operations(list(ids), dense.widths, dense.in_features, dense.bias)
    is_partial = modules.styles.get(path) == "row"
    if shard.splits_factors:
        doing = SplitOperations(
            doing, pool, list(ids), dense.widths, backend, shard, is_partial=is_partial
        )
    prefix = f"{parent_path}." if parent_path else ""
    biases = [modules.parts.vector_ids[f"{prefix}{name}.bias"] for name in names]
    parts = LinearParts(pool, list(ids), biases, dense.widths)
    reduce = shard.all_reduce if is_partial else None
    fused = FusedLinear(dense, doing, context, reduce, parts)
    setattr(parent, names[0], fused)
    for index, name in enumerate(names[1:], start=1):
        setattr(parent, name, SiblingLinear(fused, index))


def _replace_norms(model: Any, parts: BaseParts, pool: Tensor, context: StepContext) -> None:
    for path, norm in norms_of(model).items():
        weight = parts.vector_ids.get(f"{path}.weight")
        if weight is not None:
            bias = parts.vector_ids.get(f"{path}.bias")
            model.set_submodule(path, AdaptedNorm(norm, pool, context, weight, bias))


def _replace_ends(
    model: Any, pool: Tensor, backend: str, context: StepContext, shard: Shard
) -> None:
    """Replace the output layer and the embedding, of which each rank may have some rows."""
    vocabulary = model.config.vocab_size
    output = model.get_output_embeddings()
    if isinstance(output, nn.Linear):
        gather = None if shard.is_whole else lambda part: shard.gather(part, vocabulary)
        plain = PlainLinear(output, backend, gather)
        model.set_output_embeddings(AdaptedOutput(plain, output.bias, pool, context))
    embedding = model.get_input_embeddings()
    if not shard.is_whole:
        embedding = ShardedEmbedding(embedding, vocabulary, shard)
    model.set_input_embeddings(AdaptedEmbedding(embedding, pool, context))


def _edit_after_blocks(model: Any, edit: HiddenEdit, context: StepContext) -> None:
    """Edit the output of each decoder block where the step's adapters say so."""
    for layer, block in enumerate(decoder_blocks(model)):
        block.register_forward_hook(partial(_edit_output, edit, context, layer))


def _edit_output(
    edit: HiddenEdit, context: StepContext, layer: int, block: nn.Module, inputs: Any, output: Any
) -> None:
    if context.batch is not None and context.batch.edits is not None:
        hidden: Tensor = output if isinstance(output, Tensor) else output[0]
        edit.edit_(hidden[0], layer, context.batch.edits)


def _register_attention() -> None:
    from transformers import AttentionInterface

    # Registered for no mask: a mask would be [T, T], and our attention knows which tokens belong
    # together; and with one, transformers looks for packed sequences in each step.
    AttentionInterface.register(ATTENTION, attend)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend, as transformers calls it: [1, heads, T, head_dim] each to [1, T, heads, head_dim]."""
    context: StepContext = module.gossamer_context
    assert context.batch is not None
    assert context.attention is not None
    if context.seen is not None:
        context.seen.update(name for name, value in kwargs.items() if value is not None)
    out = context.attention(
        context.batch.attention,
        module.layer_idx,
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        kwargs.get("scaling") or query.shape[-1] ** -0.5,
        kwargs.get("sliding_window") or 0,
        kwargs.get("softcap") or 0.0,
        kwargs.get("s_aux"),
    )
    return out[None], None


def slices(config: Any, modules: AdaptedModules, shard: Shard) -> Slices:
    """Return what `shard` holds of the layers and of the key/value heads."""
    return slices_of(shard, modules.styles, modules.shapes, kv_shape(config)[1])


def base_shape(config: Any, modules: AdaptedModules) -> BaseShape:
    """The sizes that an adapter must fit."""
    num_layers, num_kv_heads, head_dim = kv_shape(config)
    return BaseShape(
        linears=modules.shapes,
        num_layers=num_layers,
        hidden_size=config.hidden_size,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        layer_kv_heads=layer_kv_heads(config),
        vectors=_lengths(modules),
        tables=tables_of(modules.parts, config.vocab_size, config.hidden_size),
    )


def _lengths(modules: AdaptedModules) -> dict[str, int]:
    """Lengths of the base's vectors, of the whole layers."""
    lengths = lengths_of(modules.parts)
    for path, (h_out, _) in modules.shapes.items():
        if f"{path}.bias" in lengths:
            lengths[f"{path}.bias"] = h_out
    return lengths
