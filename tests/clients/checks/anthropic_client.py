# needs: anthropic
"""Anthropic's client: messages whole and streamed, a begun answer, tools there and back, tokens."""

import sys

import anthropic

address, model = sys.argv[1:]
client = anthropic.Anthropic(base_url=address, api_key="none", max_retries=0, timeout=120)
hello = [{"role": "user", "content": "Hello"}]
tool = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "input_examples": [{"city": "Rome"}],
    "eager_input_streaming": True,
    "cache_control": {"type": "ephemeral"},
}
same = {"model": model, "max_tokens": 8, "extra_body": {"temperature": 0}}

whole = client.messages.create(messages=hello, system="Be brief.", **same)
assert whole.type == "message"
assert whole.usage.output_tokens > 0
with client.messages.stream(messages=hello, system="Be brief.", **same) as stream:
    said = "".join(stream.text_stream)
    told = stream.get_final_message()
assert told.content[0].text == whole.content[0].text == said
assert told.stop_reason == whole.stop_reason
assert told.usage.output_tokens == whole.usage.output_tokens

begun = [*hello, {"role": "assistant", "content": "It is"}]
count = client.messages.count_tokens
plain, more = (count(model=model, messages=each).input_tokens for each in (hello, begun))
assert more - plain == len("It is"), (plain, more)  # its tokens are bytes
assert client.messages.create(messages=begun, **same).role == "assistant"

large = client.messages.create(
    model=model, max_tokens=32_000, messages=hello, stop_sequences=[chr(97 + n) for n in range(4)]
)
assert large.stop_reason in ("end_turn", "stop_sequence", "max_tokens")

# The likeliest tokens of a random model are spaces for ever, which JSON allows.
drawn = {"extra_body": {"temperature": 1, "seed": 3}, "max_tokens": 600}
forced = {**same, **drawn, "tools": [tool], "tool_choice": {"type": "any"}}
called = client.messages.create(messages=hello, **forced)
[use] = called.content
assert (called.stop_reason, use.type, use.name) == ("tool_use", "tool_use", "get_weather")
assert use.input["city"] in ("Paris", "Rome")
with client.messages.stream(messages=hello, **forced) as stream:
    assert stream.get_final_message().content[0].input == use.input
result = {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny"}
turns = [*hello, {"role": "assistant", "content": called.content}]
turns.append({"role": "user", "content": [result]})
assert client.messages.create(messages=turns, tools=[tool], **same).role == "assistant"
try:
    client.messages.create(messages=hello, model="nobody", max_tokens=1)
except anthropic.NotFoundError:
    pass
else:
    raise AssertionError("a model that is not there")
