# needs: openai
"""OpenAI's own client in a loop: whole answers, streams, and /v1/responses."""

import json
import sys

import two_tools
from openai import OpenAI

address, model = sys.argv[1:]
client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DEGREES = {"type": "object", "properties": {"celsius": {"type": "number"}}, "required": ["celsius"]}
FUNCTIONS = [
    {"name": "get_celsius", "description": "The temperature of a city.", "parameters": CITY},
    {"name": "to_fahrenheit", "description": "The same in Fahrenheit.", "parameters": DEGREES},
]
TOOLS = [{"type": "function", "function": function} for function in FUNCTIONS]
MOST_TURNS = 5


def result_of(name, arguments):
    return str(getattr(two_tools, name)(**json.loads(arguments)))


def whole(messages):
    done = client.chat.completions.create(model=model, messages=messages, tools=TOOLS)
    return done.choices[0].message.model_dump(exclude_none=True)


def streamed(messages):
    with client.chat.completions.stream(model=model, messages=messages, tools=TOOLS) as stream:
        stream.until_done()
        return stream.get_final_completion().choices[0].message.to_dict(exclude_none=True)


def without_ids(message):
    calls = [each["function"] for each in message.get("tool_calls", ())]
    return message.get("content"), [(each["name"], each["arguments"]) for each in calls]


histories = []
for ask in (whole, streamed):
    messages = [{"role": "user", "content": two_tools.QUESTION}]
    for _ in range(MOST_TURNS):
        message = ask(messages)
        messages.append(
            {key: message[key] for key in ("role", "content", "tool_calls") if key in message}
        )
        if not message.get("tool_calls"):
            break
        for call in message["tool_calls"]:
            result = result_of(call["function"]["name"], call["function"]["arguments"])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    two_tools.check(messages[-1]["content"])
    histories.append([without_ids(each) for each in messages if each["role"] == "assistant"])
assert histories[0] == histories[1], histories

items = [{"role": "user", "content": two_tools.QUESTION}]
for _ in range(MOST_TURNS):
    tools = [{"type": "function", **function} for function in FUNCTIONS]
    reply = client.responses.create(model=model, input=items, tools=tools)
    calls = [each for each in reply.output if each.type == "function_call"]
    if not calls:
        break
    items += [each.model_dump(exclude_none=True) for each in reply.output]
    for call in calls:
        result = result_of(call.name, call.arguments)
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
two_tools.check(reply.output_text)
