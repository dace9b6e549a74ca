"""Which tokens ReFT edits, the first p and last s of each prompt, and where prompts lie."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from gossamer.basemodel.versions import cache_in
from gossamer.errors import UsageError


@dataclass(frozen=True, slots=True)
class EditPositions:
    """Where one call of the model is edited: indices into its tokens, flattened to [batch * q]."""

    first: Tensor
    last: Tensor

    def all(self) -> Tensor:
        """Return both groups together; they never share a token."""
        return torch.cat((self.first, self.last))


def group_sizes(lengths: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Count the tokens of either group in prompts of `lengths` [batch] tokens.

    A prompt of n < first + last tokens gives floor(n / 2) at most to the first group and
    ceil(n / 2) at most to the last one (arXiv 2404.03592, section 3.2), so no token is in both.
    """
    short = lengths < first + last
    half = lengths // 2
    sizes_first = torch.where(short, half.clamp(max=first), first)
    sizes_last = torch.where(short, (lengths - half).clamp(max=last), last)
    return sizes_first, sizes_last


def edit_positions(
    mask: Tensor, lengths: Tensor, *, past: int, first: int, last: int
) -> EditPositions:
    """Find the positions to edit in a call on the columns from `past` on.

    `mask` [batch, past + q] is 1 where there is a token and 0 for padding, on either side;
    `lengths` [batch] counts the tokens of each prompt, which are a row's first ones.
    """
    rank = mask.cumsum(1) - 1
    sizes_first, sizes_last = group_sizes(lengths, first, last)
    real = mask > 0
    in_first = real & (rank < sizes_first[:, None])
    in_last = real & (rank < lengths[:, None]) & (rank >= (lengths - sizes_last)[:, None])
    return EditPositions(*(_flat(group[:, past:]) for group in (in_first, in_last)))


def prompt_lengths(
    mask: Tensor, *, width: int | None = None, first_trained: Tensor | None = None
) -> Tensor:
    """Count the tokens of each row's prompt, [batch].

    `width` is the number of columns, padding included, that the prompts take; columns that `mask`
    does not reach yet count as tokens. `first_trained` [batch] is the column of the first token
    that is learnt; the prompt ends before it. Without either all tokens are prompt.
    """
    if width is not None:
        return width - (mask[:, :width] == 0).sum(1)
    if first_trained is not None:
        columns = torch.arange(mask.shape[1], device=mask.device)
        mask = mask * (columns < first_trained[:, None])
    return (mask > 0).sum(1)


def first_trained_column(labels: Tensor, *, shifted: bool = False) -> Tensor:
    """Column of each row's first learnt token, [batch]; the row's width where nothing is learnt.

    `labels` [batch, q] are -100 where nothing is learnt. The token in column 0 is never learnt: no
    other stands before it to predict it. `shifted`: each label stands one column to the left.
    """
    trained = labels != -100
    trained = (
        torch.nn.functional.pad(trained[:, :-1], (1, 0))
        if shifted
        else trained.index_fill(1, torch.zeros(1, dtype=torch.long, device=labels.device), False)
    )
    found = trained.any(1)
    column = trained.to(torch.uint8).argmax(1)
    return torch.where(found, column, labels.shape[1])


def _flat(group: Tensor) -> Tensor:
    return group.reshape(-1).nonzero().squeeze(1)


_PACKED = (
    "ReFT edits the prompt of each row and cannot tell prompts apart in packed rows; train with "
    "packing=False and padding_free=False"
)


class PromptTracker:
    """Follows the calls of a causal language model through hooks.

    One hook on the whole model sees the labels, one on its decoder sees mask and cache; trainers
    that compute the logits themselves still pass through both. What was found stays until the next
    call, since gradient checkpointing may work through blocks again after the call.
    """

    def __init__(self, model: nn.Module, decoder: nn.Module) -> None:
        self._first_trained: Tensor | None = None
        self._width: int | None = None
        self._prompt_mask: Tensor | None = None
        self._find: Callable[[int, int], EditPositions] | None = None
        self._found: dict[tuple[int, int], EditPositions] = {}
        self._shape = (0, 0)
        self._hooks = [
            model.register_forward_pre_hook(self._before_model, with_kwargs=True),
            model.register_forward_hook(self._after_model, always_call=True),
            decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def prompt_width(self, width: int, mask: Tensor | None = None) -> Iterator[None]:
        """Inside, the prompts take the first `width` columns, however many calls bring them.

        `mask` [batch, width] is for calls that carry no two-dimensional attention mask.
        """
        before = self._width, self._prompt_mask
        self._width, self._prompt_mask = width, mask
        try:
            yield
        finally:
            self._width, self._prompt_mask = before

    def positions(self, hidden: Tensor, first: int, last: int) -> EditPositions | None:
        """Where to edit `hidden` [batch, q, d]; None: nowhere, as while tokens are generated."""
        if tuple(hidden.shape[:2]) != self._shape:
            raise UsageError(
                f"ReFT: a block got {tuple(hidden.shape[:2])} tokens but the model "
                f"{self._shape}; call the whole model, not its blocks"
            )
        if self._find is None:
            return None
        if (first, last) not in self._found:
            self._found[first, last] = self._find(first, last)
        return self._found[first, last]

    def _before_model(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        labels, shifted = kwargs.get("labels"), kwargs.get("shift_labels")
        if _is_of_tokens(shifted):
            self._first_trained = first_trained_column(shifted, shifted=True)
        elif _is_of_tokens(labels):
            self._first_trained = first_trained_column(labels)

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> None:
        self._first_trained = None

    def _before_decoder(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if args:
            kwargs = {**inspect.signature(module.forward).bind_partial(*args).arguments, **kwargs}
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        given = ids if ids is not None else embeds
        if given is None:
            return
        self._shape = (given.shape[0], given.shape[1])
        self._found = {}
        self._find = None
        past = _cached_tokens(cache_in(kwargs))
        if past and given.shape[1] == 1 and (self._width is None or past >= self._width):
            return
        if past and self._width is None:
            raise UsageError(
                "ReFT: several tokens follow cached ones, and whether they are prompt is unknown; "
                "call generate(), or say so: with model.base_model.prompt_width(columns): ..."
            )
        mask = self._mask(kwargs.get("attention_mask"), past, given)
        _refuse_packing(kwargs, mask, past)
        lengths = prompt_lengths(mask, width=self._width, first_trained=self._first_trained)
        self._find = lambda first, last: edit_positions(
            mask, lengths, past=past, first=first, last=last
        )

    def _mask(self, given: Any, past: int, tokens: Tensor) -> Tensor:
        """[batch, past + q]: the model's mask, or ones where it has none."""
        rows, columns = self._shape[0], past + self._shape[1]
        if given is None and self._prompt_mask is None:
            return torch.ones(rows, columns, dtype=torch.long, device=tokens.device)
        if isinstance(given, Tensor) and given.dim() == 2:
            return given[:, :columns].to(tokens.device, torch.long)
        known = self._prompt_mask
        if known is None:
            raise UsageError(
                "ReFT needs an attention mask [batch, tokens] to find the prompts; pass "
                "attention_mask to generate() or to the model"
            )
        known = known.to(tokens.device, torch.long).repeat_interleave(rows // known.shape[0], 0)
        # What follows the prompt is generated, never padding.
        return nn.functional.pad(known, (0, max(0, columns - known.shape[1])), value=1)[:, :columns]


def _is_of_tokens(labels: Any) -> TypeGuard[Tensor]:
    """Whether these label tokens [batch, q]; a classifier's are one for each row, or shares."""
    return isinstance(labels, Tensor) and labels.dim() == 2 and not labels.is_floating_point()


def _cached_tokens(cache: Any) -> int:
    return int(cache.get_seq_length()) if cache is not None else 0


def _refuse_packing(kwargs: dict[str, Any], mask: Tensor, past: int) -> None:
    if any(kwargs.get(name) is not None for name in ("cu_seq_lens_q", "seq_idx")):
        raise UsageError(_PACKED)
    ids = kwargs.get("position_ids")
    if ids is None or ids.dim() != 2 or ids.shape[1] < 2:
        return
    real = mask[:, past:] > 0
    restarts = (ids.diff(dim=1) <= 0) & real[:, 1:] & real[:, :-1]
    if bool(restarts.any()):
        raise UsageError(_PACKED)
