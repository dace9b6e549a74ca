"""Encodes texts and conversations as token ids, and says who may write special tokens where."""

from collections.abc import Mapping, Sequence
from typing import Any

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

    def prompt(self, text: str) -> tuple[int, ...]:
        """Encode a text as the tokenizer does by default.

        Raises `RequestError` if special tokens are to stay text and the tokenizer cannot do that.
        """
        if self._special_tokens == "template" and self._plain.is_touched(text):
            return self._plain.encode(text)
        return tuple(self._tokenizer(text, verbose=False)["input_ids"])

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, ...]:
        """Encode a conversation by the chat template; `options` are those of `apply_chat_template`.

        Raises what the template raises, and as `prompt`.
        """
        if self._special_tokens != "everywhere" and self._plain.is_touched(messages):
            return self._plain.chat(messages, **options)
        ids = self._tokenizer.apply_chat_template(
            list(messages),
            tokenize=True,
            return_dict=False,
            tokenizer_kwargs={"verbose": False},
            **options,
        )
        return tuple(ids)
