"""Chooses how calls are read by the model's chat template, which tells how it writes them."""

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gossamer.basemodel.chat_template.tools import tool_support
from gossamer.serving.tokenization.tool_calls.frames import (
    BARE,
    MISTRAL,
    TAGGED,
    CallGrammar,
    calls_or_form,
    required_calls,
)
from gossamer.serving.tokenization.tool_calls.marked import CallSyntax, MarkedReader
from gossamer.serving.tokenization.tool_calls.parts import AnswerReader, ReaderFactory
from gossamer.serving.tokenization.tool_calls.response_template import (
    QWEN_XML,
    TemplateReader,
    response_template,
)
from gossamer.serving.tokenization.vocabulary import vocabulary_of


@dataclass(frozen=True, slots=True)
class CallFamily:
    """How a family of models writes calls."""

    syntaxes: tuple[CallSyntax, ...]
    opening: str = ""
    """What comes before the JSON object of a call that the model has to make."""
    arguments_key: str = "arguments"
    special_texts: tuple[str, ...] = ()
    """Texts of its syntax that may be special tokens, which answers leave out otherwise."""
    grammar: CallGrammar | None = None
    """How its calls are written where an answer is kept to them; None: no grammar is made of it."""
    kept_syntaxes: tuple[CallSyntax, ...] = ()
    """The syntaxes that `grammar` writes, if not all."""
    template: Mapping[str, Any] | None = None
    """A description of answers for transformers' parser, which then reads them."""


_TAGS = CallSyntax("<tool_call>", "</tool_call>")
_PYTHON_TAG = CallSyntax("<|python_tag|>")
_BARE = CallSyntax()
_MISTRAL = CallSyntax("[TOOL_CALLS]", takes_name=True)
_TAG_TEXTS = ("<tool_call>", "</tool_call>")
_MISTRAL_TEXTS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")

FAMILIES: Mapping[str, CallFamily] = {
    "hermes": CallFamily((_TAGS,), "<tool_call>\n", special_texts=_TAG_TEXTS, grammar=TAGGED),
    "llama3": CallFamily(
        (_PYTHON_TAG, _BARE), "", "parameters", ("<|python_tag|>",), BARE, (_BARE,)
    ),
    "mistral": CallFamily(
        (_MISTRAL,), "[TOOL_CALLS] ", special_texts=_MISTRAL_TEXTS, grammar=MISTRAL
    ),
    "qwen3-coder": CallFamily((), special_texts=_TAG_TEXTS, template=QWEN_XML),
    "generic": CallFamily(
        (_TAGS, _PYTHON_TAG, _MISTRAL, _BARE),
        "<tool_call>\n",
        special_texts=(*_TAG_TEXTS, "<|python_tag|>", *_MISTRAL_TEXTS),
        grammar=TAGGED,
        kept_syntaxes=(_TAGS,),
    ),
}
"""The parsers that are ours, by name."""

_SIGNS = (
    ("[TOOL_CALLS]", "mistral"),
    ("<function=", "qwen3-coder"),
    ("<tool_call>", "hermes"),
    ("<|python_tag|>", "llama3"),
)
"""What templates of a family hold, in the order in which it is looked for."""


class CallParser:
    """Makes the readers of answers to calls with tools, for one tokenizer. Any thread may ask."""

    def __init__(self, tokenizer: Any, name: str = "auto") -> None:
        """Make a parser of the family `name`, or by what the tokenizer says: by its description of
        answers (`template`), or that or else its chat template (`auto`).

        Raises `ValueError` for `template` where the tokenizer has no description of answers.
        """
        described = response_template(tokenizer)
        if name == "template" and described is None:
            raise ValueError("the tokenizer has no 'response_template' that tells how to read it")
        self._tokenizer = tokenizer
        found = family_of(tokenizer) if name in ("auto", "template") else name
        self.family = FAMILIES[found]
        is_told = described is not None and name in ("auto", "template")
        self.name = "template" if is_told else found
        """Which parser it is."""
        self._template = described if is_told else self.family.template
        # What begins a call where only the tokenizer's description tells is not known.
        self.opening = "" if self.name == "template" and found == "generic" else self.family.opening
        """What comes before the JSON object of a call that has to be made."""
        self._grammar = self.family.grammar if self.opening or found == "llama3" else None
        self.kept_special_tokens = self._kept()
        """The special tokens whose text tells calls apart."""
        self._needs_short_ids = found == "mistral"

    @property
    def is_described(self) -> bool:
        """Whether the tokenizer itself tells how answers are read."""
        return self.name == "template"

    def readers(
        self,
        tools: Sequence[Mapping[str, Any]],
        names: frozenset[str],
        prompt: Sequence[int],
        *,
        is_kept: bool = False,
    ) -> ReaderFactory:
        """Make what makes a reader for each answer to the token ids `prompt`.

        `tools` are those that were offered, `names` those that may be called; `is_kept`: answers
        are kept to what `calls_or_form` tells.
        """
        syntaxes = (self.family.kept_syntaxes if is_kept else ()) or self.family.syntaxes

        def make() -> AnswerReader:
            # What an answer is kept to is in the family's own marks.
            if self._template is not None and not is_kept:
                return TemplateReader(self._tokenizer, self._template, tools, names, prompt)
            return MarkedReader(syntaxes, names)

        return make

    def calls_or_form(self, names: frozenset[str], *, only_one: bool) -> str | None:
        """Return the frame of an answer that is calls of tools `names`, or has a form, as in
        `StructuredOutputs`; None if no grammar is made of how the model calls."""
        if self._grammar is None:
            return None
        calls = self._grammar.one if only_one else self._grammar.several
        return calls_or_form(calls, names, self.family.arguments_key, self._marks)

    def required_calls(self) -> str | None:
        """Return the frame of an answer that has to call once or more often, the form being one
        call; None if no grammar of several is made of how the model calls."""
        return None if self._grammar is None else required_calls(self._grammar, self._marks)

    @property
    def _marks(self) -> dict[str, int]:
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        texts = set(self.family.special_texts)
        return {token.content: id_ for id_, token in added.items() if token.content in texts}

    def new_id(self) -> str:
        """Make the id of a call. Templates of Mistral's take nine letters and digits."""
        letters = string.ascii_letters + string.digits
        length = 9 if self._needs_short_ids else 24
        text = "".join(secrets.choice(letters) for _ in range(length))
        return text if self._needs_short_ids else f"call_{text}"

    def _kept(self) -> tuple[int, ...]:
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        ids = vocabulary_of(self._tokenizer).special_ids
        if self.name == "template":
            return tuple(sorted(ids))
        texts = set(self.family.special_texts)
        found = {id_ for id_, token in added.items() if token.content in texts}
        return tuple(sorted(found & ids))


def family_of(tokenizer: Any) -> str:
    """Name the family whose way of calling the tokenizer's chat template writes."""
    if not getattr(tokenizer, "chat_template", None):
        return "generic"
    if not tool_support(tokenizer, has_tools=True).offers:
        return "generic"
    template = str(tokenizer.get_chat_template(tools=[]))
    for sign, name in _SIGNS:
        if sign in template:
            return name
    is_llama = '"parameters": ' in template and '{"name": ' in template
    return "llama3" if is_llama else "generic"
