"""Renders a sample as pieces of text, each either context or trained on.

What the model will have seen when it is asked at serving time is a piece of its own, so that the
tokens of a prompt are the same in training and in serving.
"""

import re
from dataclasses import dataclass
from typing import Any

from gossamer.basemodel.chat_template.tools import writable
from gossamer.errors import UnsupportedModelError
from gossamer.training.data.check import (
    Conversation,
    Message,
    Passage,
    Preference,
    PromptCompletion,
    Sample,
)
from gossamer.training.data.rows import RowProblem
from gossamer.training.data.settings import DataSettings


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text; `trained` if its tokens count in the loss."""

    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """One row as text: the pieces in order, without gaps."""

    pieces: tuple[Piece, ...]
    plain: bool
    """Whether no chat template was used: then the tokenizer's first tokens come before the text."""
    closed: bool
    """Whether the text ends with an end-of-turn token; if not, one is added and trained on."""


class _UnstableTemplate(RowProblem):
    """The template writes the start of a conversation otherwise than the whole."""


class Renderer:
    """Renders samples for one tokenizer; `settings` say what is trained and how it is written."""

    def __init__(self, tokenizer: Any, settings: DataSettings) -> None:
        self._tokenizer = tokenizer
        self._templated = settings.chat_template
        self._train_all = settings.train_on == "all"
        self._only_last = settings.train_on == "last"
        self._end = _end_of_turn(tokenizer)

    def render_sides(self, sample: Sample) -> tuple[Rendered, ...]:
        """Render both answers of a preference, each with its prompt; one text of other samples."""
        if isinstance(sample, Preference):
            return (self.render(sample.chosen), self.render(sample.rejected))
        return (self.render(sample),)

    def render(self, sample: Conversation | PromptCompletion | Passage) -> Rendered:
        """Render the text of `sample` in pieces.

        Raises `RowProblem` if the chat template refuses the row or renders the start of the
        conversation otherwise than the whole, `UnsupportedModelError` if the template is broken.
        """
        if isinstance(sample, Passage):
            return self._plain(Piece(sample.text, True))
        if isinstance(sample, PromptCompletion) and not self._templated:
            prompt = Piece(sample.prompt + sample.glue, self._train_all)
            return self._plain(prompt, Piece(sample.completion, True))
        if not self._templated:
            raise RowProblem("a list of messages needs the chat template (chat_template=true)")
        if isinstance(sample, PromptCompletion):
            sample = Conversation(
                [
                    {"role": "user", "content": sample.prompt},
                    {"role": "assistant", "content": sample.completion},
                ]
            )
        try:
            return self._conversation(sample)
        except _UnstableTemplate:
            if not self._train_all:
                raise
            # Everything is trained on: no border is needed.
            whole = self._apply(sample, sample.messages)
            return Rendered((Piece(whole, True),), plain=False, closed=True)

    def _plain(self, *pieces: Piece) -> Rendered:
        eos = self._tokenizer.eos_token
        closed = eos is not None and pieces[-1].text.endswith(eos)
        return Rendered(pieces, plain=True, closed=closed)

    def _conversation(self, sample: Conversation) -> Rendered:
        messages, trained = sample.messages, sample.trained
        if self._only_last:
            trained = trained[-1:]
        if not self._train_all:
            # Nothing is learnt from what follows the last answer.
            messages = messages[: trained[-1] + 1]
        whole = self._apply(sample, messages)
        pieces: list[Piece] = []
        done, closed = 0, True
        for index in trained:
            start, end = self._turn(sample, messages, index, whole)
            is_last = index == len(messages) - 1
            end, closed = self._trimmed(whole, start, end, is_last=is_last)
            pieces.append(Piece(whole[done:start], self._train_all))
            pieces.append(Piece(whole[start:end], True))
            done = end
        if trained[-1] != len(messages) - 1:
            pieces.append(Piece(whole[done:], self._train_all))
            closed = True
        return Rendered(tuple(p for p in pieces if p.text), plain=False, closed=closed)

    def _turn(
        self, sample: Conversation, messages: list[Message], index: int, whole: str
    ) -> tuple[int, int]:
        """Find where in `whole` the assistant turn `index` begins, after its header, and ends."""
        if index == 0:
            raise RowProblem("messages[0] is an assistant turn; a user turn must come first")
        before = self._apply(sample, messages[:index], ask=True)
        is_last = index == len(messages) - 1
        after = whole if is_last else self._apply(sample, messages[: index + 1])
        stable = whole.startswith(before) and whole.startswith(after)
        if not stable and messages[index].get("tool_calls") and whole.startswith(before):
            # Some templates write a call otherwise once its result follows, thoughts for example.
            eos = self._tokenizer.eos_token
            found = whole.find(eos, len(before)) if eos else -1
            if found >= 0:
                return len(before), found + len(eos)
        if not stable or len(after) <= len(before):
            raise _UnstableTemplate(
                "the model's chat template writes the conversation up to the assistant turn "
                f"messages[{index}] differently once the rest follows, so no exact loss mask "
                "exists; give conversations of one answer each, or train_on=all"
            )
        return len(before), len(after)

    def _trimmed(self, whole: str, start: int, end: int, *, is_last: bool) -> tuple[int, bool]:
        """The end of a turn without what follows its end-of-turn token, and if it has one."""
        found = self._end.search(whole[start:end])
        if found:
            return start + found.end(), True
        return (start + len(whole[start:end].rstrip()) if is_last else end), False

    def _apply(self, sample: Conversation, messages: list[Message], *, ask: bool = False) -> str:
        import jinja2

        try:
            turns, tools = writable(self._tokenizer, messages, sample.tools)
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    tools=None if tools is None else list(tools),
                    tokenize=False,
                    add_generation_prompt=ask,
                )
            )
        except jinja2.TemplateSyntaxError as error:
            raise UnsupportedModelError(
                f"the model's chat template is broken: {error.message}"
            ) from None
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise RowProblem(f"the model's chat template refuses it: {error}") from None


def require_template(tokenizer: Any) -> None:
    """Raise `UnsupportedModelError` if the tokenizer has no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise UnsupportedModelError(
            "the model has no chat template; train on prompts and completions as plain text with "
            "--set chat_template=false, or choose an instruction-tuned model"
        )


def _end_of_turn(tokenizer: Any) -> re.Pattern[str]:
    """Matches a special token at the end of a text, white space after it aside."""
    special = {str(token) for token in tokenizer.all_special_tokens}
    added = tokenizer.added_tokens_decoder.values()
    special |= {token.content for token in added if token.special}
    # Nothing matches the empty alternative of a tokenizer without special tokens.
    either = "|".join(re.escape(token) for token in sorted(special)) or r"(?!)"
    return re.compile(rf"(?:{either})(?=\s*\Z)")
