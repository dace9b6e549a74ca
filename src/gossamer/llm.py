"""Puts the server's engine behind a plain Python class, for offline use."""

import itertools
import queue
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gossamer.cluster.tensor_parallel.start import start_engine
from gossamer.errors import UsageError
from gossamer.serving.core.adapter import blend_name
from gossamer.serving.core.messages import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Request,
    SamplingParams,
    TokenLogprob,
    Tokens,
)
from gossamer.serving.settings import ServeSettings
from gossamer.serving.tokenization.prompts import PromptEncoder

Prompt = str | Sequence[int]
Adapter = str | Mapping[str, float]
Message = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Holds what one prompt gave."""

    prompt_token_ids: tuple[int, ...]
    adapter: str | None
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """One for each token of the prompt, where they were asked for."""


class LLM:
    """Answers lists of prompts in one batch, with a base model and a folder of adapters.

    >>> with LLM("smollm2-135m", adapters="runs") as llm:
    ...     llm.generate(["Hello", "Hello"], adapter=[None, "pirate"])
    """

    def __init__(
        self,
        model: str,
        *,
        adapters: str | Path | Sequence[str | Path] | None = None,
        **settings: Any,
    ) -> None:
        """`adapters` are folders of adapters, or an adapter's own; `settings` those of
        `ServeSettings` (`memory_gib`, `tensor_parallel`, ...)."""
        one = isinstance(adapters, str | Path)
        folders: Any = Path(adapters) if one else adapters  # type: ignore[arg-type]
        # A list of prompts is one call, however long: nothing here is refused for its number.
        given = {"model": str(model), "adapters": folders, "max_waiting": sys.maxsize, **settings}
        self.engine = start_engine(ServeSettings.parse(given, where="LLM"))
        self._encoder = PromptEncoder(self.engine.tokenizer, self.engine.special_tokens)
        self._numbers = itertools.count(1)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        adapter: Adapter | Sequence[Adapter | None] | None = None,
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Completion]:
        """Complete each prompt (a text, or token ids); in the order of the prompts.

        One `adapter` and one `sampling` hold for all prompts, a list gives each its own. An adapter
        is a name, or several names with weights: {"poet": 0.7, "pirate": 0.3}.

        Raises `UsageError` for lists of different lengths, and whatever the engine refuses a prompt
        for; the other prompts are then cancelled.
        """
        encoded = [self._encode(prompt) for prompt in _as_list(prompts)]
        return self._run(
            encoded,
            [_adapter_name(each) for each in _for_each("adapter", adapter, len(encoded))],
            _for_each("sampling", sampling or SamplingParams(), len(encoded)),
        )

    def chat(
        self,
        conversations: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        adapter: Adapter | Sequence[Adapter | None] | None = None,
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Completion]:
        """Generate for conversations of {"role": ..., "content": ...} messages, as `generate`."""
        from gossamer.basemodel.load import require_chat_template

        require_chat_template(self.engine.tokenizer)
        one = bool(conversations) and isinstance(conversations[0], Mapping)
        several: list[Any] = [conversations] if one else list(conversations)
        prompts = [self._encoder.chat(messages, add_generation_prompt=True) for messages in several]
        return self.generate(prompts, adapter=adapter, sampling=sampling)

    def close(self) -> None:
        """Stop the engine."""
        self.engine.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        return self._encoder.prompt(prompt) if isinstance(prompt, str) else tuple(prompt)

    def _run(
        self,
        prompts: list[tuple[int, ...]],
        adapters: list[str | None],
        sampling: list[SamplingParams],
    ) -> list[Completion]:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        running: dict[str, _Collector] = {}
        done: list[_Collector] = []
        try:
            for prompt, adapter, params in zip(prompts, adapters, sampling, strict=True):
                request = Request(
                    request_id=f"llm-{next(self._numbers)}",
                    prompt_token_ids=prompt,
                    adapter=adapter,
                    sampling=params,
                )
                self.engine.submit(request, events.put)
                running[request.request_id] = _Collector(request)
                done.append(running[request.request_id])
            for event in _until_final(events, running):
                running[event.request_id].take(event)
        finally:
            for request_id in running:
                self.engine.cancel(request_id)
        return [collector.completion() for collector in done]


class _Collector:
    """Gathers the events of one request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._tokens: list[Tokens] = []
        self._final: Finished | None = None

    def take(self, event: Event) -> None:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Tokens):
            self._tokens.append(event)
        else:
            self._final = event

    def completion(self) -> Completion:
        assert self._final is not None
        wants_logprobs = self._request.sampling.logprobs is not None
        return Completion(
            prompt_token_ids=self._request.prompt_token_ids,
            adapter=self._request.adapter,
            text="".join(event.text for event in self._tokens),
            token_ids=tuple(token for event in self._tokens for token in event.token_ids),
            finish_reason=self._final.finish_reason,
            logprobs=tuple(each for event in self._tokens for each in event.logprobs or ())
            if wants_logprobs
            else None,
            prompt_logprobs=next(
                (e.prompt_logprobs for e in self._tokens if e.prompt_logprobs is not None), None
            ),
        )


def _until_final(
    events: "queue.SimpleQueue[Event]", running: dict[str, _Collector]
) -> Iterator[Event]:
    """Events of the `running` requests, until each has had its final one."""
    while running:
        event = events.get()
        yield event
        if not isinstance(event, Tokens):
            del running[event.request_id]


def _adapter_name(adapter: Adapter | None) -> str | None:
    return blend_name(adapter) if isinstance(adapter, Mapping) else adapter


def _as_list(prompts: Any) -> list[Prompt]:
    is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
    return [prompts] if is_one else list(prompts)


def _for_each(what: str, given: Any, count: int) -> list[Any]:
    if not isinstance(given, list | tuple):
        return [given] * count
    if len(given) != count:
        raise UsageError(f"{what}: {len(given)} given for {count} prompts; give one, or one each")
    return list(given)
