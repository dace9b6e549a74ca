"""A server of answers from a script: a model that solves one task with two tools, however asked."""

import json
from contextlib import contextmanager

from fake_engine import FakeEngine
from live_server import live

from tiny import tiny_tokenizer

OPENING = "<tool_call>"
MOST_LETTERS = 5
"""Of a piece of an answer: calls come in many."""


@contextmanager
def scripted():
    """Serve it; yields the address. Its one model is called tiny."""
    tokenizer = tiny_tokenizer()

    def script(request):
        text = answer(tokenizer.decode(request.prompt_token_ids))
        return [text[at : at + MOST_LETTERS] for at in range(0, len(text), MOST_LETTERS)]

    engine = FakeEngine(tokenizer, script=script, max_context=2**17)
    try:
        with live(engine) as (host, port):
            yield f"http://{host}:{port}"
    finally:
        engine.shutdown()


def answer(prompt):
    """The temperature in degrees Celsius first, then the same in Fahrenheit, then in words; each
    result shows in the prompt of what follows it."""
    if "63.05" in prompt:
        words = "It is 63.05 degrees in Paris."
        # An agent of smolagents ends by a tool.
        return call(prompt, "final_answer", answer=words) if "final_answer" in prompt else words
    if "17.25" in prompt:
        return call(prompt, "to_fahrenheit", celsius=17.25)
    return call(prompt, "get_celsius", city="Paris")


def call(prompt, name, **arguments):
    """A call as models of the Hermes family write it; the marker is there where one is required."""
    text = json.dumps({"name": name, "arguments": arguments})
    if prompt.rstrip().endswith(OPENING):
        return text
    return f"{OPENING}\n{text}\n</tool_call>"
