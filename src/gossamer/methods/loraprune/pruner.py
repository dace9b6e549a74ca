"""Decides in the course of a run which groups go, and keeps their masks."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor
from transformers import TrainerCallback

from gossamer.errors import SettingError
from gossamer.methods.common.files import read_learnt, write_learnt
from gossamer.methods.common.low_rank import ADAPTER
from gossamer.methods.loraprune.importance import AdaptedWeight, line_sums
from gossamer.methods.loraprune.model import PARTS, GroupedLayers, GroupMask, Part
from gossamer.methods.loraprune.schedule import is_due, last_pruning, ratio_at, removed, share_of
from gossamer.methods.loraprune.settings import LorapruneSettings

_FORMS = {"square": torch.square, "absolute": torch.abs}


def adapted_weight(layer: Any) -> AdaptedWeight:
    """Take weight, factors and gradients of a LoRA layer of PEFT; bases in few bits are expanded.

    Gradients are those that the optimizer gets: summed over the micro-batches of the step, the mean
    over processes, and clipped where the run clips.
    """
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return AdaptedWeight(
        weight=dequantize_module_weight(layer.get_base_layer()).detach(),
        a=a.detach(),
        b=b.detach(),
        scale=layer.scaling[ADAPTER],
        grad_a=a.grad,
        grad_b=b.grad,
    )


def keep_whole(keep_layers: Sequence[int] | None, layers: int) -> set[int]:
    """Return the layers that stay whole; raises `SettingError` for one that there is not."""
    if keep_layers is None:
        return {*range(int(0.1 * layers)), layers - 1}
    for layer in keep_layers:
        if layer >= layers:
            raise SettingError(
                f"keep_layers: there is no layer {layer}; the model has 0 to {layers - 1}"
            )
    if len(set(keep_layers)) == layers:
        raise SettingError("keep_layers names all layers, so nothing would be pruned; name fewer")
    return set(keep_layers)


class Pruner:
    """The scores and masks of the groups of one model in training."""

    def __init__(self, groups: Sequence[GroupedLayers], settings: LorapruneSettings, seed: int):
        """`groups`: of the whole model; those of layers that stay whole are only read."""
        self._settings = settings
        self.groups = list(groups)
        layers = max(group.layer for group in groups) + 1
        whole = keep_whole(settings.keep_layers, layers)
        ratios = {"heads": settings.head_ratio, "mlp": settings.mlp_ratio}
        self.pruned = [g for g in groups if g.layer not in whole and ratios[g.part] > 0]
        for part in PARTS:
            for among in self._competing(part):
                _check_ratio(among, ratios[part])
        self.masks = {group.key: GroupMask(group) for group in self.pruned}
        self.seed = seed
        self.scores: dict[str, Tensor] = {}
        """Running means of importance [count], by the groups' keys."""

    def kept(self, group: GroupedLayers) -> Tensor:
        """Return the numbers of the groups that are kept, in order."""
        mask = self.masks.get(group.key)
        if mask is None or mask.kept is None:
            return torch.arange(group.count)
        return mask.kept.nonzero().flatten().cpu()

    @torch.no_grad()
    def score(self) -> None:
        """Let the gradients of the step just computed act on the running means."""
        if self._settings.criterion != "lora_gradient":
            return
        keep = self._settings.smoothing
        for group in self.pruned:
            now = self._importance(group, use_gradient=True)
            before = self.scores.get(group.key, torch.zeros_like(now))
            self.scores[group.key] = keep * before + (1 - keep) * now

    @torch.no_grad()
    def prune(self, shares: dict[Part, float]) -> None:
        """Remove the least important groups until these shares are gone; none comes back."""
        for part in PARTS:
            for groups in self._competing(part):
                scores = [self._rank_by(group) for group in groups]
                self._remove(groups, scores, shares[part])

    def _competing(self, part: Part) -> list[list[GroupedLayers]]:
        """Which layers' groups are ranked together."""
        groups = [group for group in self.pruned if group.part == part]
        if self._settings.ranking == "local":
            return [[group] for group in groups]
        return [groups] if groups else []

    def _importance(self, group: GroupedLayers, *, use_gradient: bool) -> Tensor:
        form = _FORMS[self._settings.importance]

        def of_lines(layer: Any, columns: bool) -> Tensor:
            weight = adapted_weight(layer)
            return line_sums(weight, columns=columns, form=form, use_gradient=use_gradient)

        return group.sums(of_lines, normalize=self._settings.normalize)

    def _rank_by(self, group: GroupedLayers) -> Tensor:
        """Scores [count] by which the groups are ranked now."""
        if self._settings.criterion == "magnitude":
            return self._importance(group, use_gradient=False)
        if self._settings.criterion == "random":
            number = 2 * group.layer + PARTS.index(group.part)
            generator = torch.Generator().manual_seed(self.seed * 100_003 + number)
            return torch.rand(group.count, generator=generator)
        return self.scores[group.key]

    def _remove(self, groups: list[GroupedLayers], scores: list[Tensor], share: float) -> None:
        counts = [group.count for group in groups]
        together = torch.cat([score.detach().cpu().double() for score in scores])
        kept = torch.cat([self._mask(group).cpu() for group in groups])
        together[kept == 0] = -torch.inf
        if len(groups) > 1:
            # A layer without any head or channel would be none of its family any more. What is
            # asked leaves one of each, which was judged at the start.
            for part in torch.split(together, counts):
                part[part.argmax()] = torch.inf
        order = together.argsort(stable=True)
        # A run that goes on from another one begins with groups that are gone.
        count = max(removed(share, len(kept)), int((kept == 0).sum()))
        kept = torch.ones_like(kept)
        kept[order[:count]] = 0
        for group, mask in zip(groups, torch.split(kept, counts), strict=True):
            self.masks[group.key].set(mask.to(_device(group)))

    def _mask(self, group: GroupedLayers) -> Tensor:
        mask = self.masks[group.key].kept
        return torch.ones(group.count) if mask is None else mask

    def write(self, model: Any, folder: Any) -> None:
        """Write what learns, scores and masks into `folder`."""
        more = {f"scores/{key}": score for key, score in self.scores.items()}
        more |= {f"kept/{group.key}": self._mask(group) for group in self.pruned}
        write_learnt(model, folder, more)

    def read(self, model: Any, folder: Any) -> None:
        """Go on from what `write` wrote."""
        more = read_learnt(model, folder)
        self.scores.clear()
        for group in self.pruned:
            device = _device(group)
            self.masks[group.key].set(more[f"kept/{group.key}"].to(device))
            if (score := more.get(f"scores/{group.key}")) is not None:
                self.scores[group.key] = score.to(device)


class PruneInSteps(TrainerCallback):
    """Scores before each optimizer step and prunes after it, by the schedule."""

    def __init__(self, pruner: Pruner, settings: LorapruneSettings, total: int) -> None:
        self._pruner = pruner
        self._settings = settings
        self._total = total
        self._course = {"warmup": settings.warmup_share, "recovery": settings.recovery_share}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score with the gradients and the weights that they belong to."""
        step = state.global_step + 1
        warm = step > self._settings.warmup_share * self._total
        if warm and step <= last_pruning(self._total, self._settings.recovery_share):
            self._pruner.score()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune if it is time."""
        step = state.global_step + 1
        if is_due(step, self._total, interval=self._settings.interval, **self._course):
            ratio = partial(ratio_at, step, self._total, **self._course)
            self._pruner.prune(
                {
                    "heads": ratio(final=self._settings.head_ratio),
                    "mlp": ratio(final=self._settings.mlp_ratio),
                }
            )


def _device(group: GroupedLayers) -> torch.device:
    device: torch.device = getattr(group.module, group.behind).lora_A[ADAPTER].weight.device
    return device


def _check_ratio(groups: Sequence[GroupedLayers], ratio: float) -> None:
    """Raise `SettingError` unless the share removes one at least of those that compete, and leaves
    one in each of the layers `groups`."""
    name, what = {
        "heads": ("head_ratio", "key/value heads"),
        "mlp": ("mlp_ratio", "channels"),
    }[groups[0].part]
    count = sum(group.count for group in groups)
    gone, most = removed(ratio, count), count - len(groups)
    if len(groups) == 1:
        where, other = f"layer {groups[0].layer}", ""
    else:
        where, other = f"the {len(groups)} pruned layers together", ", or ranking=local"
    if most == 0:
        raise SettingError(
            f"{name} {ratio:g}: {where} has one of the {what} a layer, which must keep it; give 0"
        )
    if gone < 1:
        raise SettingError(
            f"{name} {ratio:g} removes none of the {count} {what} of {where}; give at least "
            f"{share_of(1, count):g}, or 0 to keep all"
        )
    if gone > most:
        raise SettingError(
            f"{name} {ratio:g} removes {gone} of the {count} {what} of {where}, and each layer "
            f"must keep one; give at most {share_of(most, count):g}{other}"
        )
