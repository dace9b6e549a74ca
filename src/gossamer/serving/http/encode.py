"""Prompts to token ids. Processor work: it runs in a small pool of threads, never on the loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.inputs import Prompt
from gossamer.serving.http.schema import ChatBody

T = TypeVar("T")
TokenIds = tuple[int, ...]

WORTH_A_LOOK = 100_000
"""Characters that are encoded quickly enough not to bother."""


class Encoder:
    """A tokenizer behind threads of its own."""

    def __init__(
        self, tokenizer: Any, model_name: str, max_context: int, *, max_workers: int = 2
    ) -> None:
        self._tokenizer = tokenizer
        self._model_name = model_name
        self._max_context = max_context
        # The first call may set truncation and padding inside the tokenizer, which must not happen
        # in two threads at once; later calls only read.
        tokenizer("", verbose=False)
        self._pool = ThreadPoolExecutor(max_workers, thread_name_prefix="gossamer-encode")

    async def chat(self, body: ChatBody) -> list[TokenIds]:
        """The conversation through the chat template, with the header of the answer to come.

        Raises `ApiError` 400 if there is no template or it refuses the conversation.
        """
        return [await self._in_thread(lambda: self._chat(body))]

    async def prompts(self, prompts: tuple[Prompt, ...]) -> list[TokenIds]:
        """Texts as the tokenizer encodes them by default; token ids as they are.

        Raises `ApiError` 400 for a text that cannot fit the context.
        """
        return await self._in_thread(lambda: [self._prompt(prompt) for prompt in prompts])

    def close(self) -> None:
        """End the threads, without waiting for work that nobody waits for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _prompt(self, prompt: Prompt) -> TokenIds:
        if isinstance(prompt, str):
            self._check_characters(len(prompt))
            return tuple(self._tokenizer(prompt, verbose=False)["input_ids"])
        return prompt

    @cached_property
    def _longest_token(self) -> int:
        """Characters (of byte-level vocabularies: bytes) of the longest token."""
        return max(map(len, self._tokenizer.get_vocab()))

    def _check_characters(self, count: int) -> None:
        """Refuse what cannot fit without encoding it, which takes a second per megabyte."""
        if count > WORTH_A_LOOK and count > self._max_context * self._longest_token:
            raise self._too_long(f"{count} characters")

    def _too_long(self, size: str) -> ApiError:
        return ApiError(
            400,
            f"the context of this model is {self._max_context} tokens, which cannot hold {size}; "
            "shorten the prompt",
            code="context_length_exceeded",
        )

    def _chat(self, body: ChatBody) -> TokenIds:
        from jinja2 import TemplateError

        if not getattr(self._tokenizer, "chat_template", None):
            raise ApiError(
                400,
                f"the base model '{self._model_name}' has no chat template; use /v1/completions, "
                "or put a chat_template.jinja into the model's folder",
                code="no_chat_template",
            )
        # A message takes a token at the least.
        self._check_characters(sum(len(message.content) for message in body.messages))
        if len(body.messages) > self._max_context:
            raise self._too_long(f"{len(body.messages)} messages")
        is_continued = body.continue_final_message
        add_header = not is_continued
        if body.add_generation_prompt is not None:
            add_header = body.add_generation_prompt
        try:
            token_ids = self._tokenizer.apply_chat_template(
                [message.as_dict() for message in body.messages],
                tokenize=True,
                return_dict=False,
                add_generation_prompt=add_header,
                continue_final_message=is_continued,
                tokenizer_kwargs={"verbose": False},
            )
        except (TemplateError, ValueError) as error:
            raise ApiError(
                400,
                f"the model's chat template refuses these messages: {error}",
                code="invalid_value",
                param="messages",
            ) from None
        return tuple(token_ids)
