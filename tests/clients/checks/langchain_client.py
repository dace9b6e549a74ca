# needs: langchain-openai
"""LangChain: one chat, several at a time, a stream, objects."""

import sys
from typing import Literal

from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict


class City(BaseModel):
    """A city. Its fields have few values, so that any model finishes it."""

    # Other fields would be free text, which a random model need not end.
    model_config = ConfigDict(extra="forbid")
    name: Literal["Paris", "Rome"]
    is_large: bool


address, model = sys.argv[1:]
chat = ChatOpenAI(
    model=model, base_url=f"{address}/v1", api_key="none", max_tokens=4, temperature=0
)
answer = chat.invoke("Hello")
assert answer.usage_metadata["output_tokens"] <= 4
assert [each.content for each in chat.batch(["Hello", "Hello"])] == [answer.content] * 2
assert "".join(chunk.content for chunk in chat.stream("Hello")) == answer.content
for method in ("json_schema", "function_calling"):
    long = chat.model_copy(update={"max_tokens": 1000})
    city = long.with_structured_output(City, method=method).invoke("Which city?")
    assert isinstance(city, City), method
