# needs: llama-index-llms-openai-like
"""LlamaIndex: a chat, a stream, and objects by a tool and by a schema."""

import sys
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class City(BaseModel):
    """A city. Its fields have few values, so that any model finishes it."""

    name: Literal["Paris", "Rome"]
    is_large: bool


address, model = sys.argv[1:]
options = {"model": model, "api_base": f"{address}/v1", "api_key": "none", "is_chat_model": True}
asked = [ChatMessage(role="user", content="Which city?")]
chat = OpenAILike(**options, max_tokens=4, temperature=0)
whole = chat.chat(asked).message.content
assert "".join(part.delta or "" for part in chat.stream_chat(asked)) == whole
for how in ({"is_function_calling_model": True}, {"should_use_structured_outputs": True}):
    structured = OpenAILike(**options, **how, max_tokens=1000, temperature=0, max_retries=0)
    assert isinstance(structured.as_structured_llm(City).chat(asked).raw, City), how
