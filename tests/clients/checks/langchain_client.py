# needs: langchain-openai
"""LangChain: one chat, several at a time, a stream."""

import sys

from langchain_openai import ChatOpenAI

address, model = sys.argv[1:]
chat = ChatOpenAI(
    model=model, base_url=f"{address}/v1", api_key="none", max_tokens=4, temperature=0
)
answer = chat.invoke("Hello")
assert answer.usage_metadata["output_tokens"] <= 4
assert [each.content for each in chat.batch(["Hello", "Hello"])] == [answer.content] * 2
assert "".join(chunk.content for chunk in chat.stream("Hello")) == answer.content
