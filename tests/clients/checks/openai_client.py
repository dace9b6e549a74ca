# needs: openai
"""OpenAI's own client: models, chats, streams, log-probabilities, echo, token limits."""

import sys

from openai import BadRequestError, NotFoundError, OpenAI

address, model = sys.argv[1:]
client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
HELLO = [{"role": "user", "content": "Hello"}]
short = {"model": model, "max_tokens": 4, "temperature": 0}

assert model in [each.id for each in client.models.list()]
assert client.models.retrieve(model).id == model
whole = client.chat.completions.create(messages=HELLO, **short)
assert whole.usage.completion_tokens <= 4
stream = client.chat.completions.create(messages=HELLO, stream=True, **short)
said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
assert said == whole.choices[0].message.content
told = client.chat.completions.create(messages=HELLO, logprobs=True, top_logprobs=2, **short)
assert all(len(token.top_logprobs) == 2 for token in told.choices[0].logprobs.content)
echoed = client.completions.create(
    model=model, prompt="The sea", max_tokens=0, echo=True, logprobs=1
).choices[0]
assert echoed.text == "The sea"
assert echoed.logprobs.token_logprobs[0] is None
assert all(value <= 0 for value in echoed.logprobs.token_logprobs[1:])
client.chat.completions.create(
    model=model,
    messages=HELLO,
    max_completion_tokens=2,
    store=True,
    reasoning_effort="low",
    verbosity="low",
    service_tier="flex",
    safety_identifier="s",
    metadata={"a": "b"},
)
for error, fields in ((NotFoundError, {"model": "nobody"}), (BadRequestError, {"top_p": 2})):
    try:
        client.chat.completions.create(messages=HELLO, **{**short, **fields})
    except error:
        continue
    raise AssertionError(f"{fields} was not refused")
