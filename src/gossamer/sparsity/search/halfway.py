"""Measures the loss of a model whose layers compute by a plan, without gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.errors import DataError
from gossamer.sparsity.apply import sparsify
from gossamer.sparsity.family import decoder_layers
from gossamer.sparsity.plan import SparsityPlan
from gossamer.sparsity.predictor import PredictorFactors

Batch = dict[str, Tensor]
Progress = Callable[[int, int], None]
"""Hears how many measurements are done, and how many there are at most."""


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
        """The number of tokens that the loss is a mean over."""
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
        """Compute the next layer densely."""
        self._hidden = self._layers[self._done](self._hidden, **self._options[self._done])
        self._done += 1

    def _inputs(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """The first layer's input, and each layer's options: sliding windows have other masks."""
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


class JointLoss:
    """The loss of a base model on some batches under plans, all parts of a plan together.

    `batches` hold `input_ids`, `attention_mask` and `labels` [batch, length].
    Raises `DataError` if no token of the batches has a label.
    """

    def __init__(self, model: Any, batches: Sequence[Batch]) -> None:
        self._model = model
        self.layers: int = model.config.get_text_config().num_hidden_layers
        """The number of decoder layers."""
        self._guesses: dict[str, PredictorFactors] = {}
        with evaluating(model):
            self.halfway = [Halfway(model, batch) for batch in batches]
            if not any(part.learnt for part in self.halfway):
                raise DataError("no token of the rows is learnt; look at train_on and max_length")
            self.dense = self._mean()
            """Mean loss per learnt token, in nats, of the dense model."""

    def __call__(self, plan: SparsityPlan) -> float:
        """Mean loss per learnt token, in nats, under `plan`, from wherever the batches stand."""
        with (
            evaluating(self._model),
            sparsify(self._model, plan.updated({"start": 0}), guesses=self._guesses) as handle,
        ):
            return self._mean(
                lambda part: handle.one_pass(part.batch["labels"], part.batch["attention_mask"])
            )

    def increase(self, plan: SparsityPlan) -> float:
        """How much `plan` adds to the loss of the dense model."""
        return self(plan) - self.dense

    def advance(self) -> None:
        """Leave the next layer out of all later measurements: it is dense."""
        with evaluating(self._model):
            for part in self.halfway:
                part.advance()

    def _mean(self, around: Callable[[Halfway], Any] = lambda part: nullcontext()) -> float:
        total, count = 0.0, 0
        for part in self.halfway:
            if part.learnt:
                with around(part):
                    total += part.loss() * part.learnt
                count += part.learnt
        return total / count


def sparse_loss(model: Any, batches: Sequence[Batch], plan: SparsityPlan) -> float:
    """Mean loss per learnt token, in nats, with all layers computing by `plan`."""
    return JointLoss(model, batches)(plan)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put `model` into evaluation mode inside, where nothing has gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
