# needs: langchain langchain-openai
"""LangChain's agent, whole and streamed."""

import sys

import two_tools
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

address, model = sys.argv[1:]
for is_streamed in (False, True):
    chat = ChatOpenAI(
        model=model, base_url=f"{address}/v1", api_key="none", streaming=is_streamed, max_retries=0
    )
    agent = create_agent(chat, [two_tools.get_celsius, two_tools.to_fahrenheit])
    done = agent.invoke({"messages": [{"role": "user", "content": two_tools.QUESTION}]})
    two_tools.check(done["messages"][-1].content)
