"""A decoder layer that computes sparsely while the run's state says so."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import SettingError, TrainingError, UnsupportedAdapterError
from gossamer.sparsity.compensation import (
    Compensation,
    linear_compensation,
    mean_compensation,
)
from gossamer.sparsity.family import HeadShape, key_scores, partners, top_channels
from gossamer.sparsity.frozen_linear import FrozenLinear, Scratch, base_linear
from gossamer.sparsity.plan import Shares, SparsityPlan, kept
from gossamer.sparsity.predictor import Criterion, TrueNorms
from gossamer.sparsity.products.branch import add_branch, fits
from gossamer.sparsity.products.few_rows import FewRowsBack, FewRowsBackMlp
from gossamer.sparsity.products.slices import GatedMlp, LinearSlice, Side, compute_dtype
from gossamer.sparsity.tokens import RowGather, TokenSplit


class Pass:
    """The state that all layers share during a forward pass."""

    def __init__(self) -> None:
        self.split: TokenSplit | None = None
        """The split of the pass's tokens; None: everything is dense."""
        self.moment = 0
        """The number of sparse passes since the start of the run."""
        self.gather = RowGather()
        self.scratch = Scratch()


class Replaced:
    """Undoes what was attached to modules."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def forward(self, module: nn.Module, function: Callable[..., Any]) -> None:
        """Let the instance `module` compute by `function`."""
        own = module.__dict__.get("forward")
        # Of this instance alone: other models of the class are not touched.
        module.__dict__["forward"] = function

        def restore() -> None:
            if own is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own

        self._undo.append(restore)

    def hook(self, handle: Any) -> None:
        self._undo.append(handle.remove)

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


class SparseGroup(ABC):
    """Modules that choose their channels together: an attention block, or an MLP."""

    def __init__(
        self, current: Pass, block: nn.Module, path: str, layer: int, *, back: float
    ) -> None:
        self._pass = current
        self._path = path
        self._layer = layer
        self._back = back
        self._index: dict[str, Tensor] = {}
        self._inside = False
        self._waiting: dict[str, nn.Module] = {}
        self._linears: dict[str, nn.Module] = {}
        self._block = block

    def attach(self, replaced: Replaced) -> None:
        """Choose channels when the block begins, forget them when it ends."""
        replaced.hook(
            self._block.register_forward_pre_hook(outside_graphs(self._begin), with_kwargs=True)
        )
        replaced.hook(
            self._block.register_forward_hook(outside_graphs(self._end), always_call=True)
        )

    @abstractmethod
    def choose(self, x: Tensor, split: TokenSplit) -> dict[str, Tensor]:
        """Index sets by name of projection, for the block's input [batch, length, d]."""

    def slice_linear(
        self, name: str, module: nn.Module, side: Side, detach: bool, replaced: Replaced
    ) -> None:
        """Let the frozen layer in `module` compute with the channels chosen for `name`, or with all
        of them, and go back for few tokens."""
        sliced: Any = LinearSlice.apply
        whole: Any = FewRowsBack.apply
        linear, wrapped = base_linear(module, f"{self._path}.{name}")
        frozen, dense = FrozenLinear(linear, self._pass.scratch), linear.forward
        self._linears[name] = module
        detach = detach and wrapped

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            split, index = self._pass.split, self._index.get(name)
            if split is None or not self._computes(name):
                return dense(x, *args, **kwargs)
            self._waiting.pop(name, None)
            if index is None:
                out = whole(x, frozen, split, self._back, compute_dtype(x, frozen))
            else:
                gather = self._pass.gather
                out = sliced(x, frozen, split, side, index, gather, detach, self._back)
            return out if torch.is_autocast_enabled(x.device.type) else out.to(x.dtype)

        replaced.forward(linear, outside_graphs(forward))
        if wrapped:
            self._fuse_branch(name, module, replaced)

    def _computes(self, name: str) -> bool:
        """Whether the projection `name` computes less than the whole in this pass."""
        return self._inside and (bool(self._back) or name in self._index)

    def _fuse_branch(self, name: str, module: Any, replaced: Replaced) -> None:
        """Let the adapter's own layer add its branch in fewer passes while its base is sliced."""
        whole = module.forward

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not self._computes(name) or args or kwargs or not fits(module, x):
                return whole(x, *args, **kwargs)
            return add_branch(module, x, module.base_layer(x))

        replaced.forward(module, outside_graphs(forward))

    def _begin(self, block: nn.Module, args: Any, kwargs: Any) -> None:
        self._index, self._inside = {}, False
        split = self._pass.split
        if split is None:
            return
        x = args[0] if args else kwargs["hidden_states"]
        if tuple(x.shape[:2]) != (split.batch, split.length):
            raise TrainingError(
                f"sparse compute: {self._path} sees {tuple(x.shape[:2])} tokens, the labels are of "
                f"({split.batch}, {split.length}); with gradient checkpointing, call backward() "
                "before the next forward pass"
            )
        with torch.no_grad():
            self._index = self.choose(x.detach(), split)
        self._inside = True
        self._waiting = {
            name: module for name, module in self._linears.items() if self._computes(name)
        }

    def _end(self, block: nn.Module, args: Any, output: Any) -> Any:
        """What the block's output is to be, or None for what it is."""
        self._index, self._inside = {}, False
        self._pass.gather.forget()
        waiting, self._waiting = self._waiting, {}
        if waiting and output is not None:
            name, module = next(iter(waiting.items()))
            raise UnsupportedAdapterError(
                f"sparse compute: {type(module).__module__}.{type(module).__name__} at "
                f"{self._path}.{name} does not compute its frozen part through its base layer, so "
                "nothing could be saved; use a method such as lora"
            )
        return None


class SparseAttention(SparseGroup):
    """Attention that computes few outputs of q, k and v and reads few inputs of o, or whose
    products go back for few tokens."""

    def __init__(
        self,
        current: Pass,
        block: Any,
        path: str,
        layer: int,
        *,
        heads: HeadShape,
        shares: Shares,
        plan: SparsityPlan,
        criterion: Criterion,
        replaced: Replaced,
    ) -> None:
        super().__init__(current, block, path, layer, back=shares.back)
        self._heads, self._shares, self._plan, self._criterion = heads, shares, plan, criterion
        for share in filter(None, (shares.qk, shares.vo)):
            check_kept(heads.key_channels, share, layer)
        sliced: list[tuple[str, Side]] = []
        if shares.qk or shares.back:
            sliced += [("q_proj", "outputs"), ("k_proj", "outputs")]
        if shares.vo or shares.back:
            sliced += [("v_proj", "outputs"), ("o_proj", "inputs")]
        for name, side in sliced:
            self.slice_linear(name, getattr(block, name), side, plan.detach_base, replaced)
        self.attach(replaced)

    def choose(self, x: Tensor, split: TokenSplit) -> dict[str, Tensor]:
        heads, released = self._heads, self._plan.released_mapping
        index: dict[str, Tensor] = {}
        if self._shares.qk:
            queries = self._criterion.outputs("q", x, split)
            keys = self._criterion.outputs("k", x, split)
            scores = key_scores(queries, keys, heads, released=released)
            index["k_proj"] = top_channels(scores, self._shares.qk)
            index["q_proj"] = partners(index["k_proj"], heads, released=released)
        if self._shares.vo:
            index["v_proj"] = top_channels(self._criterion.outputs("v", x, split), self._shares.vo)
            # The published code reads the numbers of value channels as inputs of o.
            index["o_proj"] = index["v_proj"] if released else partners(index["v_proj"], heads)
        return index


class SparseMlp(SparseGroup):
    """An MLP that computes few outputs of gate and up and reads few inputs of down, or whose
    products go back for few tokens."""

    def __init__(
        self,
        current: Pass,
        block: Any,
        path: str,
        layer: int,
        *,
        shares: Shares,
        plan: SparsityPlan,
        criterion: Criterion,
        replaced: Replaced,
    ) -> None:
        super().__init__(current, block, path, layer, back=shares.back)
        self._share, self._criterion = shares.mlp, criterion
        self._samples, self._kind = plan.criterion == "sample", plan.compensating
        self._compensation: Compensation | None = None
        self._input: Any = None
        modules = {name: getattr(block, name) for name in ("gate_proj", "up_proj", "down_proj")}
        found = {name: base_linear(module, f"{path}.{name}") for name, module in modules.items()}
        check_kept(FrozenLinear(found["gate_proj"][0]).out_features, shares.mlp, layer)
        if any(wrapped for _, wrapped in found.values()):
            for name, module in modules.items():
                side: Side = "inputs" if name == "down_proj" else "outputs"
                self.slice_linear(name, module, side, plan.detach_base, replaced)
        else:
            self._whole(block, modules, replaced)
        self._down = FrozenLinear(found["down_proj"][0], self._pass.scratch)
        self._reach = self._column_norms() if self._samples and shares.mlp else None
        self.attach(replaced)

    def choose(self, x: Tensor, split: TokenSplit) -> dict[str, Tensor]:
        if not self._share:
            return {}
        index = self._sampled(x, split) if self._samples else self._scored(x, split)
        return dict.fromkeys(("gate_proj", "up_proj", "down_proj"), index)

    def _scored(self, x: Tensor, split: TokenSplit) -> Tensor:
        return top_channels(self._criterion.mlp(x, split), self._share)

    def _sampled(self, x: Tensor, split: TokenSplit) -> Tensor:
        """The channels that add most at the sampled tokens; what the others add is made up for."""
        assert isinstance(self._criterion, TrueNorms)
        rows, channels = self._criterion.mlp_channels(x, split)
        index = top_channels(channels.float().norm(dim=0) * self._reach, self._share)
        if self._kind != "none":
            left_out = channels.index_fill(1, index, 0.0)
            outputs = left_out @ self._down.weight(left_out.dtype).t()
            linear = self._kind == "linear"
            self._compensation = (
                linear_compensation(rows, outputs) if linear else mean_compensation(outputs)
            )
        return index

    def _begin(self, block: nn.Module, args: Any, kwargs: Any) -> None:
        self._compensation = None
        super()._begin(block, args, kwargs)
        self._input = None
        if self._compensation is not None:
            self._input = args[0] if args else kwargs["hidden_states"]

    def _end(self, block: nn.Module, args: Any, output: Any) -> Any:
        super()._end(block, args, output)
        compensation, self._compensation = self._compensation, None
        x, self._input = self._input, None
        split = self._pass.split
        if compensation is None or output is None or split is None:
            return None
        return compensation.added_to(output, x, split)

    @torch.no_grad()
    def _column_norms(self) -> Tensor:
        """The norm of each channel's column of down, [f]."""
        return self._down.weight(torch.float32).norm(dim=0)

    def _whole(self, block: Any, modules: dict[str, nn.Module], replaced: Replaced) -> None:
        """No adapters in between: the block as one function, of the width that is left."""
        sliced: Any = GatedMlp.apply
        whole: Any = FewRowsBackMlp.apply
        gate, up, down = (FrozenLinear(module, self._pass.scratch) for module in modules.values())
        dense = block.forward

        def forward(x: Tensor) -> Tensor:
            split, index = self._pass.split, self._index.get("gate_proj")
            if split is None or not self._computes("gate_proj"):
                return dense(x)
            if any(getattr(block, name) is not module for name, module in modules.items()):
                raise UnsupportedAdapterError(
                    f"sparse compute: adapters were added to {self._path} after sparsify(); add "
                    "them first"
                )
            if index is None:
                out = whole(x, gate, up, down, split, self._back, compute_dtype(x, gate))
            else:
                out = sliced(x, gate, up, down, split, index, self._back)
            return out if torch.is_autocast_enabled(x.device.type) else out.to(x.dtype)

        replaced.forward(block, outside_graphs(forward))


def outside_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep `function` out of the graphs that torch.compile makes of the rest."""
    disable: Any = torch.compiler.disable
    return disable(function)


def check_kept(channels: int, share: float, layer: int) -> None:
    """Raise `SettingError` if nothing would remain."""
    if kept(channels, share) == 0:
        raise SettingError(
            f"plan: a share of {share:g} leaves none of the {channels} channels of layer {layer}"
        )


@contextmanager
def undone_on_error(replaced: Replaced) -> Iterator[None]:
    """Leave no half-changed model behind."""
    try:
        yield
    except BaseException:
        replaced.undo()
        raise
