"""Encodes texts and conversations as token ids, and says who may write special tokens where."""

from collections.abc import Mapping, Sequence
from typing import Any

from gossamer.basemodel.chat_template.tools import writable
from gossamer.serving.tokenization.plain_content import PlainContent


class PromptEncoder:
    """A tokenizer with a rule about special tokens. Any thread may ask.

    A conversation's texts come from people: what looks like the end of a turn in them must not be
    one, so only the chat template writes special tokens. A plain prompt is all that the model gets,
    and who sends one may have laid out turns in it.
    """

    def __init__(self, tokenizer: Any, special_tokens: str) -> None:
        """Make an encoder; `special_tokens` is as in `ServeSettings`."""
        self._tokenizer = tokenizer
        self._special_tokens = special_tokens
        self._plain = PlainContent(tokenizer)

    def prompt(self, text: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """Encode a text as the tokenizer does by default, or without what it puts around texts.

        Raises `RequestError` if special tokens are to stay text and the tokenizer cannot do that.
        """
        if self._special_tokens == "template" and self._plain.is_touched(text):
            return self._plain.encode(text, is_whole=add_special_tokens)
        encoded = self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)
        return tuple(encoded["input_ids"])

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        opening: str = "",
        **options: Any,
    ) -> tuple[int, ...]:
        """Encode a conversation by the chat template.

        Args:
            messages: the turns, as `apply_chat_template` takes them.
            tools: what the answer may call. A template that knows no tools gets them as text.
            variables: what else clients tell the template.
            opening: the text with which the answer begins, special tokens included; it must not
                come from clients.
            options: those of `apply_chat_template`.

        Raises what the template raises, and as `prompt`.
        """
        turns, offered = writable(self._tokenizer, messages, tools)
        from_people = dict(variables or {}) | ({"tools": list(offered)} if offered else {})
        ids = self._chat(turns, from_people, options)
        if opening:
            ids += tuple(
                self._tokenizer(opening, add_special_tokens=False, verbose=False).input_ids
            )
        return ids

    def _chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        from_people: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> tuple[int, ...]:
        if self._special_tokens != "everywhere" and self._plain.is_touched([messages, from_people]):
            return self._plain.chat(messages, from_people, **options)
        ids = self._tokenizer.apply_chat_template(
            list(messages),
            tokenize=True,
            return_dict=False,
            tokenizer_kwargs={"verbose": False},
            **from_people,
            **options,
        )
        return tuple(ids)
