# needs: instructor openai
"""instructor: an object by a tool that must be called, and by a schema."""

import sys
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, ConfigDict


class City(BaseModel):
    """A city. Its fields have few values, so that any model finishes it."""

    # Other fields would be free text, which a random model need not end.
    model_config = ConfigDict(extra="forbid")
    name: Literal["Paris", "Rome"]
    is_large: bool


address, model = sys.argv[1:]
for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
    own = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    client = instructor.from_openai(own, mode=mode)
    city = client.chat.completions.create(
        model=model,
        response_model=City,
        max_retries=0,
        max_tokens=1000,
        temperature=0,
        messages=[{"role": "user", "content": "Which city?"}],
    )
    assert isinstance(city, City), mode
