# needs: openai-agents
"""OpenAI's Agents SDK: chat completions and responses, whole and streamed."""

import asyncio
import sys

import two_tools
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

address, model = sys.argv[1:]
set_tracing_disabled(True)
client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
tools = [function_tool(two_tools.get_celsius), function_tool(two_tools.to_fahrenheit)]


async def main():
    for form in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        agent = Agent(
            name="thermometer", tools=tools, model=form(model=model, openai_client=client)
        )
        two_tools.check((await Runner.run(agent, two_tools.QUESTION)).final_output)
        streamed = Runner.run_streamed(agent, two_tools.QUESTION)
        async for _ in streamed.stream_events():
            pass
        two_tools.check(streamed.final_output)


asyncio.run(main())
