# needs: pydantic-ai-slim[openai]
"""pydantic-ai: an agent that answers with text."""

import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

address, model = sys.argv[1:]
provider = OpenAIProvider(base_url=f"{address}/v1", api_key="none")
agent = Agent(
    OpenAIChatModel(model, provider=provider), model_settings={"max_tokens": 4, "temperature": 0}
)
answer = agent.run_sync("Hello")
assert isinstance(answer.output, str)
