# needs: pydantic-ai-slim[openai]
"""pydantic-ai: an agent that answers with text, and with an object."""

import sys
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    """A city. Its fields have few values, so that any model finishes it."""

    name: Literal["Paris", "Rome"]
    is_large: bool


address, model = sys.argv[1:]
provider = OpenAIProvider(base_url=f"{address}/v1", api_key="none")
agent = Agent(
    OpenAIChatModel(model, provider=provider), model_settings={"max_tokens": 4, "temperature": 0}
)
answer = agent.run_sync("Hello")
assert isinstance(answer.output, str)
for output in (City, NativeOutput(City)):
    agent = Agent(
        OpenAIChatModel(model, provider=provider),
        output_type=output,
        retries=0,
        model_settings={"max_tokens": 1000, "temperature": 0},
    )
    assert isinstance(agent.run_sync("Which city?").output, City)
