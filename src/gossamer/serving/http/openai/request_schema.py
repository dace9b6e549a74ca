"""The bodies of requests: OpenAI's fields and the usual extensions.

Types are strict, null counts as absent, ranges are OpenAI's where it has them. Everything else is
refused (see `unsupported_fields`).
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Never, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gossamer.serving.core.messages import StructuredOutputs
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai import unsupported_fields
from gossamer.serving.http.openai.chat.field_names import THE_SAME, FieldNames
from gossamer.serving.http.openai.chat.messages import Message, parse_messages
from gossamer.serving.http.openai.chat.template_variables import parse_variables
from gossamer.serving.http.openai.chat.tools import (
    Tool,
    ToolChoice,
    check_choice,
    parse_tool_choice,
    parse_tools,
)
from gossamer.serving.http.openai.sampling_fields import (
    parse_bad_words,
    parse_logit_bias,
    parse_stop,
    parse_stop_token_ids,
)
from gossamer.serving.http.openai.sizes import SizeLimits, check_choices, check_sizes
from gossamer.serving.http.openai.structured_fields import (
    FIELDS,
    Form,
    only_one,
    parse_guided_choice,
    parse_guided_grammar,
    parse_guided_json,
    parse_guided_regex,
    parse_response_format,
    parse_structured_outputs,
)
from gossamer.serving.http.openai.unsupported_fields import shown

Prompt = str | tuple[int, ...]


def parse_prompts(value: Any) -> tuple[Prompt, ...]:
    """Parse one prompt or several, each text or token ids; raises `ApiError` 400."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        _refuse_input("prompt", "'prompt' must be a text, a list of token ids, or a list of either")
    if all(isinstance(item, str) for item in value):
        return tuple(value)
    if _is_token_ids(value):
        return (tuple(value),)
    if all(isinstance(item, list) and item and _is_token_ids(item) for item in value):
        return tuple(tuple(item) for item in value)
    kinds = "a text, a list of token ids (whole numbers from 0), or a list of either, not mixed"
    raise ApiError(400, f"'prompt' must be {kinds}", code="invalid_value", param="prompt")


def _is_token_ids(items: list[Any]) -> bool:
    # type() and not isinstance(): JSON's true is no token id.
    return all(type(item) is int and item >= 0 for item in items)


def _refuse_input(param: str, message: str) -> Never:
    raise ApiError(400, message, code="invalid_value", param=param)


MAX_SEED = 2**63 - 1
MAX_PENALTY = 10
MAX_PRIORITY = 1000
MAX_WORD = 32
"""The most characters of a word such as `low`."""
MAX_MODEL = 512
"""The most characters of a model's name; mixtures have long ones."""


class StreamOptions(BaseModel):
    """The options of what a stream carries beside the text."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    include_usage: bool = False
    continuous_usage_stats: bool = False
    """Whether each chunk carries the usage so far (vLLM's option)."""


def _parse_stream_options(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return unsupported_fields.keep_supported(
        value, StreamOptions.model_fields, unsupported_fields.STREAM, where="stream_options."
    )


class GenerationBody(BaseModel):
    """The fields that chat and completion requests have in common."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", arbitrary_types_allowed=True
    )
    unsupported: ClassVar[Mapping[str, unsupported_fields.Neutral]]
    elsewhere: ClassVar[tuple[str, str, str]]
    """The other route's field for what is said, that route, and the field of this one."""

    model: str = Field(min_length=1, max_length=MAX_MODEL)
    stream: bool = False
    stream_options: Annotated[StreamOptions | None, BeforeValidator(_parse_stream_options)] = None
    max_tokens: int | None = Field(None, ge=0)
    min_tokens: int = Field(0, ge=0)
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, ge=0, le=1, allow_inf_nan=False)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED)
    stop: Annotated[tuple[str, ...], BeforeValidator(parse_stop)] = ()
    n: int = Field(1, ge=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float = Field(0.0, ge=-2, le=2, allow_inf_nan=False)
    repetition_penalty: float = Field(1.0, gt=0, le=MAX_PENALTY, allow_inf_nan=False)
    logit_bias: Annotated[dict[int, float], BeforeValidator(parse_logit_bias)] = {}
    bad_words: Annotated[tuple[str, ...], BeforeValidator(parse_bad_words)] = ()
    stop_token_ids: Annotated[tuple[int, ...], BeforeValidator(parse_stop_token_ids)] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    prompt_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Annotated[Form, BeforeValidator(parse_response_format)] = None
    structured_outputs: Annotated[Form, BeforeValidator(parse_structured_outputs)] = None
    guided_json: Annotated[Form, BeforeValidator(parse_guided_json)] = None
    guided_regex: Annotated[Form, BeforeValidator(parse_guided_regex)] = None
    guided_choice: Annotated[Form, BeforeValidator(parse_guided_choice)] = None
    guided_grammar: Annotated[Form, BeforeValidator(parse_guided_grammar)] = None
    priority: int = Field(0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)

    @property
    def new_tokens(self) -> int | None:
        """The most new tokens; None: as many as fit."""
        return self.max_tokens

    @property
    def names(self) -> FieldNames:
        """The names of fields for errors that come after the body was parsed."""
        return THE_SAME

    @property
    def form(self) -> StructuredOutputs | None:
        """The form that the answers are to have, whichever field asks for it.

        Raises `ApiError` 400 if several do.
        """
        return only_one([(name, getattr(self, name)) for name in FIELDS])

    @property
    def num_prompts(self) -> int:
        """The number of prompts, each of which gets `n` choices."""
        return 1

    @property
    def num_drawn(self) -> int:
        """The number of choices drawn for each prompt, of which `n` are answered."""
        return self.n

    @property
    def num_prompt_logprobs(self) -> int | None:
        """The number of log-probabilities of the prompt, as in `SamplingParams.prompt_logprobs`."""
        return self.prompt_logprobs

    @property
    @abstractmethod
    def num_logprobs(self) -> int | None:
        """The number of log-probabilities, as in `SamplingParams.logprobs`."""

    @classmethod
    def parse(cls, values: dict[str, Any], limits: SizeLimits) -> Self:
        """Check a decoded JSON object; raise `ApiError` 400 that names the field and the remedy.

        Takes time that grows with the size of its texts.
        """
        cls._check_route(values)
        check_sizes(values, limits)
        kept = unsupported_fields.keep_supported(values, cls.model_fields, cls.unsupported)
        try:
            body = cls.model_validate(kept)
        except ValidationError as error:
            raise _first_problem(error) from None
        body.check()
        check_choices(body.num_prompts * body.num_drawn, limits.max_choices)
        return body

    @classmethod
    def _check_route(cls, values: dict[str, Any]) -> None:
        """Raise `ApiError` 400 for what was meant for the other route."""
        other, route, own = cls.elsewhere
        if values.get(other) is not None and own not in values:
            message = f"'{other}' is for {route}; send it there, or send '{own}'"
            raise ApiError(400, message, code="unknown_parameter", param=other)

    def check(self) -> None:
        """Rules that involve several fields; raise `ApiError` 400."""
        if self.prompt_logprobs is not None and self.stream:
            _refuse("prompt_logprobs", "'prompt_logprobs' are not streamed; leave 'stream' out")
        _ = self.form
        limit = self.new_tokens
        if limit is not None and self.min_tokens > limit:
            _refuse(
                "min_tokens",
                f"'min_tokens' = {self.min_tokens} is more than the {limit} new tokens allowed; "
                "lower it or raise 'max_tokens'",
            )


_NEWER_LIMIT = FieldNames({"max_tokens": "max_completion_tokens"})


class ChatBody(GenerationBody):
    """The body of POST /v1/chat/completions."""

    unsupported = unsupported_fields.CHAT
    elsewhere = ("prompt", "/v1/completions", "messages")

    messages: Annotated[tuple[Message, ...], BeforeValidator(parse_messages)]
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    tools: Annotated[tuple[Tool, ...], BeforeValidator(parse_tools)] = ()
    tool_choice: Annotated[ToolChoice, BeforeValidator(parse_tool_choice)] = ToolChoice()
    parallel_tool_calls: bool = True
    chat_template_kwargs: Annotated[dict[str, Any], BeforeValidator(parse_variables)] = {}
    reasoning_effort: str | None = Field(None, max_length=MAX_WORD)
    verbosity: str | None = Field(None, max_length=MAX_WORD)

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template is told beside the messages.

        It alone knows whether the model can think more or less, or say more or less.
        """
        words = {"reasoning_effort": self.reasoning_effort, "verbosity": self.verbosity}
        told: dict[str, Any] = {name: word for name, word in words.items() if word is not None}
        if self.reasoning_effort == "none":
            told["enable_thinking"] = False
        return told | self.chat_template_kwargs

    @property
    def offered_tools(self) -> tuple[Tool, ...]:
        """The tools that the model is shown."""
        choice = self.tool_choice
        if choice.mode == "none":
            return ()
        if choice.mode == "auto" and choice.names:
            return self.callable_tools
        return self.tools

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """The tools that the model may call."""
        names = self.tool_choice.names
        return tuple(tool for tool in self.tools if not names or tool.name in names)

    @property
    def new_tokens(self) -> int | None:
        """The most new tokens: `max_completion_tokens`, else `max_tokens`, its older name."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def names(self) -> FieldNames:
        """The names of fields: of the two for new tokens, the one that counts."""
        return THE_SAME if self.max_completion_tokens is None else _NEWER_LIMIT

    @property
    def num_logprobs(self) -> int | None:
        """The number of log-probabilities: `top_logprobs` if `logprobs` is set."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        """Rules that involve several fields; raise `ApiError` 400."""
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            _refuse("top_logprobs", "'top_logprobs' needs 'logprobs': true")
        if self.continue_final_message and self.add_generation_prompt:
            _refuse(
                "continue_final_message",
                "'continue_final_message' and 'add_generation_prompt' exclude each other",
            )
        check_choice(self.tools, self.tool_choice)
        if self.tool_choice.mode == "required" and self.continue_final_message:
            _refuse(
                "continue_final_message",
                "'continue_final_message' goes on with a text, and 'tool_choice' wants a call",
            )


class CompletionBody(GenerationBody):
    """The body of POST /v1/completions."""

    unsupported = unsupported_fields.COMPLETION
    elsewhere = ("messages", "/v1/chat/completions", "prompt")

    prompt: Annotated[tuple[Prompt, ...], BeforeValidator(parse_prompts)]
    max_tokens: int | None = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    best_of: int | None = Field(None, ge=1)

    @property
    def num_prompts(self) -> int:
        """The number of prompts, texts or lists of token ids."""
        return len(self.prompt)

    @property
    def num_logprobs(self) -> int | None:
        """The number of log-probabilities: the field itself."""
        return self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        """The number of log-probabilities of the prompt: echoed ones come with those of answers."""
        if not self.echo or self.logprobs is None:
            return self.prompt_logprobs
        return max(self.logprobs, self.prompt_logprobs or 0)

    @property
    def num_drawn(self) -> int:
        """The number of choices drawn for each prompt: `best_of`, or `n`."""
        return self.n if self.best_of is None else self.best_of

    def check(self) -> None:
        """Rules that involve several fields; raise `ApiError` 400."""
        super().check()
        if self.num_drawn < self.n:
            _refuse("best_of", f"'best_of' = {self.best_of} is less than 'n' = {self.n}; raise it")
        if self.stream and self.num_drawn > self.n:
            _refuse("best_of", "'best_of' needs all answers before it chooses; leave 'stream' out")


def _refuse(param: str, message: str) -> None:
    raise ApiError(400, message, code="invalid_value", param=param)


def _first_problem(error: ValidationError) -> ApiError:
    problem = error.errors(include_url=False)[0]
    param = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return ApiError(
            400, f"field '{param}' is required", code="missing_required_parameter", param=param
        )
    reason = problem["msg"]
    message = f"'{param}' = {shown(problem['input'])}: {reason[0].lower()}{reason[1:]}"
    is_type = problem["type"].endswith("_type")
    return ApiError(400, message, code="invalid_type" if is_type else "invalid_value", param=param)
