"""Encodes prompts as token ids: processor work, done in turns on threads, never on the loop."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from gossamer.errors import cut
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.chat.bounds import count_characters
from gossamer.serving.http.openai.chat.calling import opening
from gossamer.serving.http.openai.prompt_replies import Echo, EchoedPrompt
from gossamer.serving.http.openai.request_schema import ChatBody, CompletionBody, Prompt
from gossamer.serving.http.openai.sizes import too_long
from gossamer.serving.tokenization.prompts import PromptEncoder
from gossamer.serving.tokenization.tool_calls.families import CallParser
from gossamer.serving.tokenization.vocabulary import vocabulary_of

TokenIds = tuple[int, ...]
Turn = Callable[[], list[TokenIds]]

WORTH_A_LOOK = 1_000
"""The characters up to which a text is encoded quickly enough not to estimate first."""

TURN_CHARACTERS = 50_000
"""The most characters of short texts that are encoded together: some hundredths of a second."""


class RequestEncoder:
    """Encodes the prompts of a call with the model's tokenizer.

    `chat` and `prompts` give the turns in which to encode a call, each a piece of work for a
    thread, none of which takes much longer than the longest text.
    """

    def __init__(
        self,
        tokenizer: Any,
        model_name: str,
        max_context: int,
        *,
        special_tokens: str,
        call_parser: CallParser,
    ) -> None:
        self._tokenizer = tokenizer
        self._call_parser = call_parser
        self._encoder = PromptEncoder(tokenizer, special_tokens)
        self._model_name = model_name
        self._max_context = max_context
        # The first call may set truncation and padding inside the tokenizer, which must not happen
        # in two threads at once; later calls only read.
        tokenizer("", verbose=False)

    def chat(self, body: ChatBody) -> list[Turn]:
        """Encode a conversation by the chat template, with the header of the answer to come.

        Raises `ApiError` 400 for one that cannot fit the context; the turn, if there is no template
        or it refuses the conversation.
        """
        written = [
            (each.name, each.content, each.reasoning, each.tool_calls, each.tool_call_id)
            for each in body.messages
        ]
        tools = [tool.as_dict for tool in body.offered_tools]
        self._check_characters(count_characters([written, tools, body.chat_template_kwargs]))
        return [lambda: [self._chat(body)]]

    def prompts(self, body: CompletionBody) -> list[Turn]:
        """Encode texts as the tokenizer does by default; token ids stay as they are.

        Raises `ApiError` 400 for a text that cannot fit the context.
        """
        turns: list[list[Prompt]] = []
        size = 0
        for prompt in body.prompt:
            count = len(prompt) if isinstance(prompt, str) else 0
            self._check_characters(count)
            if not turns or size + count > TURN_CHARACTERS:
                turns.append([])
                size = 0
            turns[-1].append(prompt)
            size += count
        return [partial(self._prompts, prompts) for prompts in turns]

    def text(self, text: str, *, add_special_tokens: bool) -> TokenIds:
        """Encode a text, with what the tokenizer puts around every text or without it.

        Raises `ApiError` 400 for one that cannot fit the context.
        """
        self._check_characters(len(text))
        return self._encoder.prompt(text, add_special_tokens=add_special_tokens)

    def echo(self, body: CompletionBody, prompts: list[TokenIds]) -> Echo:
        """Return what answers to `body` begin with; `prompts` are its prompts as token ids."""
        texts = (p if isinstance(p, str) else self._tokenizer.decode(p) for p in body.prompt)
        pairs = zip(texts, prompts, strict=True)
        special = vocabulary_of(self._tokenizer).special_ids
        return Echo([EchoedPrompt(*each) for each in pairs], body.n, special)

    def _prompts(self, prompts: list[Prompt]) -> list[TokenIds]:
        return [self._prompt(prompt) for prompt in prompts]

    def _prompt(self, prompt: Prompt) -> TokenIds:
        if isinstance(prompt, str):
            return self._encoder.prompt(prompt)
        return prompt

    @cached_property
    def _longest_token(self) -> int | None:
        """The characters (for byte-level vocabularies: bytes) of the longest token; None if one may
        stand for a text of any length."""
        if _has_unbounded_token(self._tokenizer):
            return None
        return max(map(len, self._tokenizer.get_vocab()))

    def _check_characters(self, count: int) -> None:
        """Refuse what cannot fit without encoding it, which takes a second per megabyte."""
        if count <= WORTH_A_LOOK or self._longest_token is None:
            return
        if count > self._max_context * self._longest_token:
            raise too_long(self._max_context, f"{count} characters")

    def _chat(self, body: ChatBody) -> TokenIds:
        from jinja2 import TemplateError

        if not getattr(self._tokenizer, "chat_template", None):
            raise ApiError(
                400,
                f"the base model '{self._model_name}' has no chat template; use /v1/completions, "
                "or put a chat_template.jinja into the model's folder",
                code="no_chat_template",
            )
        is_continued = body.continue_final_message
        add_header = not is_continued
        if body.add_generation_prompt is not None:
            add_header = body.add_generation_prompt
        try:
            return self._encoder.chat(
                [message.as_dict() for message in body.messages],
                tools=[tool.as_dict for tool in body.offered_tools],
                variables=body.template_variables,
                opening=opening(self._call_parser, body),
                add_generation_prompt=add_header,
                continue_final_message=is_continued,
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise ApiError(
                400,
                f"the model's chat template refuses these messages: {cut(str(error))}",
                code="invalid_value",
                param="messages",
            ) from None


def _has_unbounded_token(tokenizer: Any) -> bool:
    """Whether an unknown word or run of unknown characters, however long, becomes one token."""
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    kind = type(model).__name__
    if kind == "BPE":
        return bool(model.unk_token and model.fuse_unk and not model.byte_fallback)
    return kind in ("WordPiece", "WordLevel") or (kind == "Unigram" and not model.byte_fallback)
