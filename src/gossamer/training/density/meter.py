"""Watches the activations of a model while it computes: their density, and the density loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import TrainingError, UnsupportedModelError
from gossamer.training.density.settings import DensitySettings
from gossamer.training.density.sites import Site, find_sites
from gossamer.training.density.soft_count import dense_share, soft_count


class DensityMeter:
    """Hooks on the MLPs of a model, which stay until `detach`.

    `with meter.watching(tokens): model(...)` looks at one forward pass; only the first within it
    counts, so a reference model's does not. `loss` is then the term of that pass. What has been
    seen since the last `take` are the figures that it returns.

    Under gradient checkpointing a layer is computed again in the backward pass, and its hooks are
    called again. They then do the same work, which autograd insists on, and note nothing.

    The term is the mean over all layers. One that is computed without a graph, since nothing that
    learns stands before it (SHERL's early layers), counts as the constant that it is. Where such a
    layer turns out to have a gradient after all, because it is computed again with a graph that
    the loss was no part of, the backward pass raises `TrainingError`.
    """

    def __init__(self, settings: DensitySettings) -> None:
        self._settings = settings
        self._weight = settings.density_loss or 0.0
        self._sites: list[Site] = []
        self._hooks: list[Any] = []
        self._tokens = torch.empty(0)
        self._watching = False
        self._wants_terms = False
        self._terms: list[Tensor] = []
        self._constant: set[str] = set()
        self._shares: dict[str, Tensor] = {}
        self._seen: list[tuple[float, float | None]] = []
        self._rows: list[int] = []

    def attach(self, model: nn.Module) -> None:
        """Watch `model`; raises `UnsupportedModelError` if its activations are not known."""
        self._sites = find_sites(model, self._settings.density_of)
        for site in self._sites:
            hook = partial(self._see, site)
            self._hooks.append(
                site.module.register_forward_pre_hook(partial(_taken, hook))
                if site.is_input
                else site.module.register_forward_hook(partial(_given, hook))
            )

    def detach(self) -> None:
        """Leave the model as it was."""
        while self._hooks:
            self._hooks.pop().remove()
        self._terms, self._shares = [], {}

    @contextmanager
    def watching(self, tokens: Tensor) -> Iterator[None]:
        """Look at the forward pass inside; `tokens` [rows, tokens] is true where none is padding.

        Raises `UnsupportedModelError` if some MLP computed without its activation function.
        """
        self._tokens, self._watching = tokens, True
        self._wants_terms = bool(self._weight) and torch.is_grad_enabled()
        self._terms, self._shares, self._constant = [], {}, set()
        try:
            yield
        finally:
            self._watching = False
        if len(self._shares) != len(self._sites):
            missed = next(site.path for site in self._sites if site.path not in self._shares)
            raise UnsupportedModelError(
                f"density_loss: {missed} was not called, so this model's MLPs compute by other "
                "code; leave density_loss out"
            )
        self._note()

    def loss(self) -> Tensor | None:
        """The weighted term of the pass that was watched last; None if the weight is 0.

        Raises `TrainingError` if nothing that learns stands before an activation.
        """
        if not self._weight or not torch.is_grad_enabled():
            return None
        terms, self._terms = self._terms, []
        loss = self._weight * torch.stack(terms).mean() if terms else self._tokens.new_zeros(())
        if not loss.requires_grad:
            raise TrainingError(
                "density_loss: no activation of an MLP depends on a weight that learns; choose "
                "other target_modules or layers, or leave density_loss out"
            )
        return loss

    def take(self) -> dict[str, float]:
        """The figures since the last call, which are forgotten: `density`, the mean of the layers'
        shares over all tokens seen, and in training with a weight, `density_term`, the mean of
        the unweighted terms."""
        seen, rows, self._seen, self._rows = self._seen, self._rows, [], []
        if not seen:
            return {}
        total = max(1, sum(rows))
        share = sum(share * count for (share, _), count in zip(seen, rows, strict=True)) / total
        terms = [term for _, term in seen if term is not None]
        figures = {"density": round(share, 6)}
        return figures | ({"density_term": round(fmean(terms), 6)} if terms else {})

    def threshold(self) -> float:
        """The size above which an activation counts as dense, in the model that is watched."""
        if self._settings.density_threshold is not None:
            return self._settings.density_threshold
        exact = all(site.exact_zeros for site in self._sites)
        return 0.0 if exact else self._settings.density_epsilon**0.5

    def _note(self) -> None:
        """Keep the figures of the pass; its tokens weigh as they count."""
        share = float(torch.stack(list(self._shares.values())).mean())
        term = float(torch.stack(self._terms).detach().mean()) if self._terms else None
        self._seen.append((share, term))
        self._rows.append(int(self._tokens.sum()))

    def _see(self, site: Site, activations: Tensor) -> None:
        if not self._watching and not torch.is_grad_enabled():
            # The model answers a prompt between two steps.
            return
        a = _by_token(activations, self._tokens, site)
        first = self._watching and site.path not in self._shares
        if first:
            self._shares[site.path] = dense_share(a, self._tokens, self.threshold())
        if first and self._wants_terms and not torch.is_grad_enabled():
            self._constant.add(site.path)
        elif site.path in self._constant and torch.is_grad_enabled() and a.requires_grad:
            raise TrainingError(
                f"density_loss: {site.path} is computed without a graph first and again in the "
                "backward pass, where the term has no part; use density_loss=0, which only "
                "measures, or a method that does not do so"
            )
        if self._weight and (torch.is_grad_enabled() or (first and self._wants_terms)):
            term = soft_count(a, self._tokens, self._settings.density_epsilon)
            if first:
                self._terms.append(term)


@contextmanager
def density_meter(settings: DensitySettings, model: nn.Module) -> Iterator[DensityMeter | None]:
    """A meter attached to `model` while inside; None if the settings ask for nothing."""
    if settings.density_loss is None:
        yield None
        return
    meter = DensityMeter(settings)
    meter.attach(model)
    try:
        yield meter
    finally:
        meter.detach()


def _given(see: Any, module: nn.Module, inputs: Any, output: Tensor) -> None:
    see(output)


def _taken(see: Any, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    see(inputs[0])


def _by_token(a: Tensor, tokens: Tensor, site: Site) -> Tensor:
    """Activations as [rows, tokens, channels]; virtual tokens, which come first, are left out."""
    rows, length = tokens.shape
    if a.dim() == 2 and a.shape[0] == tokens.numel():
        return a.view(rows, length, -1)
    if a.dim() != 3 or a.shape[0] != rows or a.shape[1] < length:
        raise UnsupportedModelError(
            f"density_loss: {site.path} computes {list(a.shape)} for {rows} rows of {length} "
            "tokens, which is not supported; leave density_loss out"
        )
    return a[:, -length:]
