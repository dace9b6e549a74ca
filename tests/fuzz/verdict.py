"""What an answer of the server must look like, whatever was sent."""

import json

LONGEST_ERROR = 4000
"""Characters of an answer that is an error."""


def problem_of(status: int, content_type: str, text: str) -> str | None:
    """What is wrong with an answer; None if it is one, or an error that says what is wrong."""
    if status != 200 and not 400 <= status < 500:
        return f"status {status}"
    if "Traceback" in text:
        return "a traceback"
    if status != 200:
        return _problem_of_error(text)
    if content_type.startswith("text/event-stream"):
        return _problem_of_stream(text)
    return None if json.loads(text)["choices"] else "no choices"


def _problem_of_error(text: str) -> str | None:
    try:
        error = json.loads(text)["error"]
    except (ValueError, TypeError, KeyError):
        return "an error that is not in OpenAI's shape"
    if set(error) != {"message", "type", "param", "code"}:
        return f"an error of {sorted(error)}"
    message = error["message"]
    if not isinstance(message, str) or not message.isprintable():
        return "a message that is no line of text"
    if not isinstance(error["type"], str) or not isinstance(error["code"], str | None):
        return "an error of another type"
    if len(text) > LONGEST_ERROR:
        return f"an error of {len(text)} characters"
    return None


def _problem_of_stream(text: str) -> str | None:
    try:
        chunks = [json.loads(event) for event in events(text)]
    except ValueError as error:
        return f"a stream that is none: {error}"
    if not chunks:
        return "an empty stream"
    # What is wrong with an adapter's numbers may come to light after some tokens.
    if any("error" in chunk for chunk in chunks[:-1]):
        return "a stream that goes on after an error"
    last = chunks[-1].get("error")
    return None if last is None or last["type"] != "server_error" else "an error of the server"


def events(text: str) -> list[str]:
    """What each event of a whole stream carries; raises `ValueError` for anything else."""
    lines = text.split("\n\n")
    if lines.pop() or not all(line.startswith("data: ") for line in lines):
        raise ValueError(lines[-2:])
    found = [line.removeprefix("data: ") for line in lines]
    if found[-1:] == ["[DONE]"]:
        return found[:-1]
    if not found or '"error"' not in found[-1]:
        raise ValueError(found[-1:])
    return found
