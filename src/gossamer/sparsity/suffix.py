"""A batch on its way through the decoder, so that a change in one layer costs only those above."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.sparsity.family import decoder_layers

Batch = dict[str, Tensor]


class Halfway:
    """The hidden states of a batch between two layers, all layers below computed densely.

    `batch` holds `input_ids`, `attention_mask` and `labels`, [batch, length] each.
    """

    def __init__(self, model: Any, batch: Batch) -> None:
        self.batch = batch
        self._model = model
        self._layers = [model.get_submodule(layer.path) for layer in decoder_layers(model)]
        self._done = 0
        self._hidden, self._options = self._inputs()

    @property
    def learnt(self) -> int:
        """Number of tokens that the loss is a mean over."""
        return int((self.batch["labels"][:, 1:] != -100).sum())

    def loss(self) -> float:
        """Mean loss per learnt token, in nats, of the layers above as they are now."""
        hidden = self._hidden
        for number in range(self._done, len(self._layers)):
            hidden = self._layers[number](hidden, **self._options[number])
        hidden = self._model.get_decoder().norm(hidden)[:, :-1]
        labels = self.batch["labels"][:, 1:]
        chosen = labels != -100
        # Scores of a large vocabulary are costly: only where something is learnt.
        scores = self._model.get_output_embeddings()(hidden[chosen])
        return float(F.cross_entropy(scores.float(), labels[chosen]))

    def advance(self) -> None:
        """Compute the next layer."""
        self._hidden = self._layers[self._done](self._hidden, **self._options[self._done])
        self._done += 1

    def _inputs(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """The first layer's input, and the options of each: sliding windows have other masks."""
        first: list[Tensor] = []
        options: list[dict[str, Any]] = []

        def see(layer: Any, args: Any, kwargs: Any) -> None:
            if not first:
                first.append(args[0])
            options.append(dict(kwargs))

        handles = [layer.register_forward_pre_hook(see, with_kwargs=True) for layer in self._layers]
        inputs = {name: self.batch[name] for name in ("input_ids", "attention_mask")}
        try:
            self._model.get_decoder()(**inputs, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return first[0], options


def total_loss(halfway: list[Halfway]) -> float:
    """Mean loss per learnt token over several batches."""
    with torch.no_grad():
        count = sum(part.learnt for part in halfway)
        return sum(part.loss() * part.learnt for part in halfway if part.learnt) / count
