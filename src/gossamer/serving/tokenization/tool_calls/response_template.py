"""Reads answers by the description that a tokenizer brings of them, with transformers' parser."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gossamer.serving.tokenization.tool_calls.calls import calls_of
from gossamer.serving.tokenization.tool_calls.parts import AnswerPart, ReasoningPart, TextPart

_REASONING = frozenset({"reasoning_content", "reasoning", "thinking"})
"""The fields in which descriptions put what a model has thought."""
_CALLS = "tool_calls"

PREFIX_TOKENS = 512
"""The last tokens of a prompt, in which the answer's header is looked for."""

_FAULTS = (ValueError, TypeError, KeyError, IndexError, RecursionError)
"""What the parser raises for a call that is none."""


QWEN_XML: Mapping[str, Any] = {
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "content": {"content": "text"},
        _CALLS: {
            "open_pattern": r"<tool_call>\s*<function=(?P<name>[^>\s]+)>",
            "close_pattern": r"</function>\s*</tool_call>\s*",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"<parameter=(?P<key>[^>\s]+)>\n?(?P<value>.*?)\n?</parameter>",
                "value_parser": {"name": "text"},
            },
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
    },
}
"""How Qwen 3 Coder and Qwen 3.5 call: parameters as tags, whose texts the tool's schema types."""


def response_template(tokenizer: Any) -> Mapping[str, Any] | None:
    """Return the tokenizer's description of its model's answers, if it has one."""
    found = getattr(tokenizer, "response_template", None)
    usable = isinstance(found, Mapping) and hasattr(tokenizer, "get_response_parser")
    return found if usable else None


class TemplateReader:
    """Reads the text of one answer by a description of answers.

    The parser gets one character after the other: so its events, which it cuts where the text is
    cut, are always the same, and what it says about a call that is none can become content.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]],
        names: frozenset[str],
        prompt: Sequence[int],
    ) -> None:
        """Make a reader for what comes after the token ids `prompt`.

        Args:
            tokenizer: makes the parser.
            template: the description of answers.
            tools: the offered tools, by whose schemas texts become numbers where they should.
            names: those that may be called.
            prompt: its end may have begun the answer, by the opening of a thought for example.
        """
        self._tokenizer = tokenizer
        self._template = template
        self._tools = list(tools)
        self._names = names
        self._raw = ""
        """What the parser has got and not given back yet."""
        self._region = ""
        self._parser = self._new(self._header(prompt))
        for event in self._parser.initial_events:
            self._note(event)

    def push(self, text: str) -> list[AnswerPart]:
        """Return the parts that are certain once `text` has come."""
        parts: list[AnswerPart] = []
        for character in text:
            self._raw += character
            try:
                events = self._parser.feed(character)
            except _FAULTS:
                parts += self._give_back()
                continue
            parts += self._parts(events, character)
        return parts

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """Return the rest, once no more text comes."""
        if is_cut and self._region == _CALLS:
            return self._give_back()
        try:
            # The token that ends an answer is no part of its text; some descriptions want it.
            parts = self._parts(
                self._parser.feed(str(self._tokenizer.eos_token or "")), "", is_end=True
            )
            is_json = self._template["fields"].get(_CALLS, {}).get("content") == "json"
            if self._region == _CALLS and not is_json:
                # What only tags close may lack some of its arguments.
                return parts + self._give_back()
            return parts + self._parts(self._parser.finalize()[1], "", is_end=True)
        except _FAULTS:
            return self._give_back()

    def _new(self, prefix: str) -> Any:
        return self._tokenizer.get_response_parser(
            dict(self._template), prefix=prefix, tools=self._tools
        )

    def _header(self, prompt: Sequence[int]) -> str:
        """The end of the prompt, if it has the header of an answer."""
        text = str(self._tokenizer.decode(list(prompt[-PREFIX_TOKENS:])))
        anchor = self._template.get("start_anchor")
        if anchor is None:
            return text if re.search(self._template["start_anchor_pattern"], text) else ""
        anchors = [anchor] if isinstance(anchor, str) else anchor
        return text if any(each in text for each in anchors) else ""

    def _give_back(self) -> list[AnswerPart]:
        """Give what the parser has swallowed as content, and start again behind it."""
        text, self._raw, self._region = self._raw, "", ""
        self._parser = self._new("")
        return [TextPart(text)] if text else []

    def _note(self, event: Mapping[str, Any]) -> None:
        self._region = "" if event["type"] == "region_close" else event["field"]

    def _parts(
        self, events: Sequence[Mapping[str, Any]], last: str, *, is_end: bool = False
    ) -> list[AnswerPart]:
        """Return the parts that events tell; `last` is the character that has brought them.

        `is_end`: what was added behind the answer has brought them, and is no part of it.
        """
        parts: list[AnswerPart] = []
        for event in events:
            self._note(event)
            kind, field = event["type"], event["field"]
            if kind == "region_close":
                if field == _CALLS:
                    parts += self._calls(event["value"])
                # A pattern is only known to have ended by the character behind it.
                is_literal = "close" in self._template["fields"].get(field, {})
                self._raw = "" if is_literal else last
            elif kind == "region_chunk" and field != _CALLS:
                text = event["text"][: len(self._raw)] if is_end else event["text"]
                if text:
                    parts.append(ReasoningPart(text) if field in _REASONING else TextPart(text))
                self._raw = self._raw[len(text) :]
        return parts

    def _calls(self, value: Any) -> list[AnswerPart]:
        try:
            calls = calls_of(value, self._names)
        except _FAULTS:
            calls = None
        return [TextPart(self._raw)] if calls is None else calls
