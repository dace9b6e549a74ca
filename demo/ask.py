"""Put the same questions to several models at once, through the official `openai` client."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from openai import AsyncOpenAI, OpenAIError

from demo.command import DemoError


@dataclass(frozen=True)
class Answer:
    """One reply, with its times in seconds from the moment all questions were sent."""

    model: str
    question: str
    text: str
    tokens: int
    first_token: float
    done: float


@dataclass(frozen=True)
class Round:
    """All replies to questions that were asked together."""

    answers: tuple[Answer, ...]
    seconds: float

    @property
    def tokens(self) -> int:
        return sum(answer.tokens for answer in self.answers)

    def text(self, model: str, question: str) -> str:
        return next(a.text for a in self.answers if (a.model, a.question) == (model, question))


def ask_together(
    url: str, models: Sequence[str], questions: Sequence[str], max_tokens: int
) -> Round:
    """Ask every model every question, all at the same time, with greedy decoding."""
    try:
        return asyncio.run(_ask_together(url, models, questions, max_tokens))
    except OpenAIError as error:
        raise DemoError(f"a question was not answered: {error}") from error


async def _ask_together(
    url: str, models: Sequence[str], questions: Sequence[str], max_tokens: int
) -> Round:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        start = time.perf_counter()
        answers = await asyncio.gather(
            *(_ask(client, m, q, max_tokens, start) for m in models for q in questions)
        )
        return Round(tuple(answers), time.perf_counter() - start)


async def _ask(
    client: AsyncOpenAI, model: str, question: str, max_tokens: int, start: float
) -> Answer:
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, tokens, first_token = "", 0, 0.0
    async for chunk in stream:
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            if choice.delta.content:
                first_token = first_token or time.perf_counter() - start
                text += choice.delta.content
    return Answer(model, question, text.strip(), tokens, first_token, time.perf_counter() - start)
