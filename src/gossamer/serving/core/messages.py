"""Defines what crosses the border of the engine: requests in, events out.

Every request that `Engine.submit` accepts ends in exactly one final event: `Finished` or `Failed`.
Plain frozen dataclasses; nothing here imports torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from json import dumps
from typing import Any, Literal

from gossamer.errors import GossamerError, RequestError

FinishReason = Literal["stop", "length", "cancelled"]

DEFAULT_TENANT = "default"
"""The tenant of requests that name none, such as all requests to a server without keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputs:
    """Asks for an answer that has a form: exactly one of the first four fields is given.

    Each next token is one of those with which the answer can still come to have the form. An
    end-of-text token may come only where it has, and special tokens only where `grammar` names
    them. When nothing more can follow, the request ends with the reason "stop", whatever
    `min_tokens` and `ignore_eos` say. One that ends for want of tokens ("length") or at a stop text
    is a beginning of the form.
    """

    json: Mapping[str, Any] | bool | str | None = field(default=None, hash=False)
    """A JSON Schema, or its text: the answer is a JSON document that it admits."""
    regex: str | None = None
    """A regular expression (RE2's notation without look-around) that the whole answer matches."""
    choice: Sequence[str] | None = field(default=None, hash=False)
    """The texts of which the answer is one."""
    grammar: str | None = None
    """A grammar of the whole answer: Lark's notation as llguidance reads it, with the rule `start`,
    or llama.cpp's GBNF, with `root ::=`.

    In Lark's notation rules are in lower case and terminals in upper case; `%json {...}` stands for
    the documents of a JSON Schema, and `<name>` for the special token of that name. Text that is
    free until a token or a tag comes is a terminal such as `/(.|\\n)*/` before it:

        start: TEXT | TEXT? call+
        TEXT: /(.|\\n)*/
        call: <tool_call> "\\n" %json {"type": "object"} "\\n" </tool_call>
    """
    frame: str | None = None
    """A grammar of the whole answer in Lark's notation, in which `@form` stands for what has the
    form, such as `start: @form | "none"`; None: the answer is that alone. It must not come from
    clients, since how long it takes to compile is not tried out."""
    asked_as: str = "structured_outputs"
    """The name of the field that asked for it, for messages about it."""

    def __post_init__(self) -> None:
        """Raise `RequestError` unless one form is given, of the right type."""
        given = [name for name in FORMS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            self._refuse(f"must have one of {', '.join(FORMS)}, and has {found}")
        if given == ["choice"]:
            self._check_choice()
        elif given == ["json"]:
            if not isinstance(self.json, Mapping | bool | str):
                self._refuse("has a json that is no JSON Schema (an object, or its text)")
        elif not isinstance(getattr(self, given[0]), str):
            self._refuse(f"has a {given[0]} that is no text")

    def _check_choice(self) -> None:
        choice = self.choice
        is_list = isinstance(choice, Sequence) and not isinstance(choice, str) and choice
        if not is_list or not all(isinstance(each, str) and each for each in choice or ()):
            self._refuse("has a choice that is no list of texts of at least one character")

    @property
    def kind(self) -> str:
        """Return which of the forms is given."""
        return next(name for name in FORMS if getattr(self, name) is not None)

    @property
    def text(self) -> str:
        """Return the form as text: of a schema and of choices, JSON in the order that was given.

        Raises `RequestError` for a schema that JSON cannot express.
        """
        value = getattr(self, self.kind)
        if isinstance(value, str):
            return value
        try:
            return dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"{self.asked_as}: {error}", param=self.asked_as) from None

    def _refuse(self, problem: str) -> None:
        raise RequestError(f"{self.asked_as} {problem}", param=self.asked_as)


FORMS = tuple(each.name for each in fields(StructuredOutputs))[:4]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Says how to choose the next token. The defaults are OpenAI's."""

    max_tokens: int | None = None
    """New tokens at most; None: as many as the context length leaves. 0: the prompt is computed
    alone, to be scored."""
    min_tokens: int = 0
    """End-of-text and stop conditions are not honoured before this many new tokens."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    min_p: float = 0.0
    seed: int | None = None
    """Same seed, same request: same tokens, whatever else is in the batch."""
    stop: tuple[str, ...] = ()
    """Texts that end generation; not part of the output."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end generation as the end-of-text token does."""
    include_stop: bool = False
    """Whether what ended generation, a text of `stop` or a token, is part of the output's text."""
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    """Positive logits of tokens in the prompt or the output are divided by it, others multiplied
    (CTRL, arXiv 1909.05858)."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """What is added to the logits of tokens, by token id."""
    bad_words: tuple[str, ...] = ()
    """Texts that are not to be generated: the last token of each way to write one is forbidden
    where the others have just been generated."""
    skip_special_tokens: bool = True
    """Whether special tokens are no part of the output's text."""
    kept_special_tokens: tuple[int, ...] = ()
    """Special tokens that are part of the text all the same, such as those that mark a call."""
    logprobs: int | None = None
    """None: no log-probabilities; k: of the chosen token and of the k most likely ones."""
    prompt_logprobs: int | None = None
    """None: no log-probabilities of the prompt; k: of each of its tokens behind those before it,
    but the first, and of the k most likely ones."""
    prompt_logprobs_from: int = 0
    """The number of tokens of the prompt that are given no log-probabilities. What requests have in
    common there is computed once, and found in the prefix cache."""
    structured_outputs: StructuredOutputs | None = None
    """The form that the answer is to have, if any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Asks for one sequence."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    adapter: str | None = None
    """Name of the adapter; None: the base model alone."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    tenant: str = DEFAULT_TENANT
    """The tenant whose request it is: the unit of fairness and quota."""
    priority: int = 0
    """Among the requests of a tenant, those with a lower number start first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """Gives a token the natural logarithm of its probability at temperature 1."""

    token_id: int
    text: str
    """The text of the token alone; U+FFFD stands for what is no whole character."""
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()
    """(token id, text, log-probability) of the most likely tokens, best first."""
    rank: int | None = None
    """For a token of a prompt: its place among all tokens, the most likely being 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Brings new output; `text` may be empty while a character or a stop text is undecided."""

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """One for each token of the prompt, None for the first and those before `prompt_logprobs_from`;
    in the first event of a request that asks for them, which brings nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Ends a request that ran. All its text has been sent in `Tokens` events."""

    request_id: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were in the prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Ends a request that could not be run, or not to its end."""

    request_id: str
    error: GossamerError


Event = Tokens | Finished | Failed
