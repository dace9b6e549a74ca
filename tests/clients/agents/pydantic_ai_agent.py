# needs: pydantic-ai-slim[openai]
"""pydantic-ai's agent, whole and streamed."""

import asyncio
import sys

import two_tools
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

address, model = sys.argv[1:]
provider = OpenAIProvider(base_url=f"{address}/v1", api_key="none")
agent = Agent(
    OpenAIChatModel(model, provider=provider),
    tools=[two_tools.get_celsius, two_tools.to_fahrenheit],
)
two_tools.check(agent.run_sync(two_tools.QUESTION).output)


async def streamed():
    async with agent.run_stream(two_tools.QUESTION) as answer:
        return await answer.get_output()


two_tools.check(asyncio.run(streamed()))
