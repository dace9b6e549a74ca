# needs: smolagents[openai]
"""smolagents' agent that calls tools, whole and streamed."""

import sys

import two_tools
from smolagents import OpenAIServerModel, ToolCallingAgent, tool

address, model = sys.argv[1:]
for is_streamed in (False, True):
    agent = ToolCallingAgent(
        tools=[tool(two_tools.get_celsius), tool(two_tools.to_fahrenheit)],
        model=OpenAIServerModel(model_id=model, api_base=f"{address}/v1", api_key="none"),
        stream_outputs=is_streamed,
        max_steps=5,
        verbosity_level=0,
    )
    two_tools.check(agent.run(two_tools.QUESTION))
