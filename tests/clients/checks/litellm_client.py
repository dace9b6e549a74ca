# needs: litellm
"""LiteLLM: whole and streamed chats, as a server of vLLM's kind."""

import sys

import litellm

address, model = sys.argv[1:]
call = {
    "model": f"hosted_vllm/{model}",
    "api_base": f"{address}/v1",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 4,
    "temperature": 0,
}
whole = litellm.completion(**call)
assert whole.usage.completion_tokens <= 4
pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**call, stream=True)]
assert "".join(pieces) == whole.choices[0].message.content
