"""Encodes rendered rows as token ids and labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gossamer.errors import UnsupportedModelError
from gossamer.training.data.render import Rendered

NO_LOSS = -100
"""The label of a token that does not count in the loss, as torch and transformers have it."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row to train on: `labels[i]` is `input_ids[i]`, or -100 where there is no loss.

    The first label is always -100: nothing comes before it to predict it from.
    """

    input_ids: list[int]
    labels: list[int]
    lengths: tuple[int, ...] = ()
    """The lengths of the rows that are packed into this one; empty: it is one row."""

    @property
    def trained_tokens(self) -> int:
        """The number of labels that count in the loss."""
        return len(self.labels) - self.labels.count(NO_LOSS)

    @property
    def sides(self) -> tuple["Example", ...]:
        """What goes through the model for this row."""
        return (self,)


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A preference: two answers to one prompt, each whole and labelled as an example is."""

    chosen: Example
    rejected: Example
    reference: tuple[float, float] | None = None
    """The log-probabilities of the chosen and the rejected answer under DPO's reference."""

    @property
    def sides(self) -> tuple[Example, ...]:
        """What goes through the model for this row."""
        return (self.chosen, self.rejected)


class ExampleEncoder:
    """Turns rendered rows into examples with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # What the tokenizer puts before any text: nothing, or a begin-of-text token.
        self._start = _start_tokens(tokenizer)

    def encode(self, rows: Sequence[Rendered]) -> list[Example]:
        """Encode `rows` as examples, in order and at full length.

        Context pieces get the tokens that they get alone, as in serving; a token never spans the
        border of a prompt and its completion. Raises `UnsupportedModelError` if an end-of-turn
        token is needed and the tokenizer has none.
        """
        # The tokens of the text up to each border. Cutting the tokens of the whole at a border is
        # right only where they begin with the tokens of the text before it.
        heads = [_heads(row) for row in rows]
        flat = iter(self._tokens([head for group in heads for head in group]))
        by_row = [[next(flat) for _ in group] for group in heads]
        return [self._example(row, ids) for row, ids in zip(rows, by_row, strict=True)]

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # verbose=False: the maximum length is ours to keep, not the tokenizer's to warn of.
        encoded = self._tokenizer(texts, add_special_tokens=False, verbose=False)
        return list(encoded["input_ids"])

    def _example(self, row: Rendered, heads: list[list[int]]) -> Example:
        whole = heads[-1]
        if all(whole[: len(head)] == head for head in heads):
            borders = [0, *map(len, heads)]
            parts = [whole[a:b] for a, b in pairwise(borders)]
        else:
            parts = self._tokens([piece.text for piece in row.pieces])
        ids: list[int] = list(self._start) if row.plain else []
        labels = [NO_LOSS] * len(ids)
        for piece, part in zip(row.pieces, parts, strict=True):
            ids += part
            labels += part if piece.trained else [NO_LOSS] * len(part)
        if not row.closed:
            ids.append(self._end())
            labels.append(ids[-1])
        labels[0] = NO_LOSS
        return Example(ids, labels)

    def _end(self) -> int:
        eos = self._tokenizer.eos_token_id
        if eos is None:
            raise UnsupportedModelError(
                "the model's tokenizer has no end-of-text token, so answers could not learn to end"
            )
        return int(eos)


def is_learnt_from(sides: Iterable[Example]) -> bool:
    """Whether something is to be learnt of each of these sides of a row."""
    return all(side.trained_tokens for side in sides)


def cut(example: Example, max_length: int) -> Example:
    """The first `max_length` tokens of `example`."""
    return Example(example.input_ids[:max_length], example.labels[:max_length])


def _heads(row: Rendered) -> list[str]:
    heads, text = [], ""
    for piece in row.pieces:
        text += piece.text
        heads.append(text)
    return heads


def _start_tokens(tokenizer: Any) -> list[int]:
    bos = tokenizer.bos_token_id
    around_nothing = list(tokenizer("")["input_ids"])
    return [bos] if bos is not None and around_nothing[:1] == [bos] else []
