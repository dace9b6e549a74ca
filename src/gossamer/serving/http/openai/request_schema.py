"""The bodies of requests: OpenAI's fields and the usual extensions.

Types are strict, null counts as absent, ranges are OpenAI's where it has them. Everything else is
refused (see `unsupported_fields`).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Never, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gossamer.errors import unknown_name_message
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai import unsupported_fields
from gossamer.serving.http.openai.sampling_fields import (
    parse_bad_words,
    parse_logit_bias,
    parse_stop,
    parse_stop_token_ids,
)
from gossamer.serving.http.openai.sizes import SizeLimits, check_choices, check_sizes
from gossamer.serving.http.openai.unsupported_fields import shown

Prompt = str | tuple[int, ...]

ROLES = ("system", "developer", "user", "assistant")
TOOL_ROLES = ("tool", "function")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, ready for a chat template."""

    role: str
    content: str
    name: str | None = None

    def as_dict(self) -> dict[str, str]:
        """Return the form that chat templates read."""
        named = {"name": self.name} if self.name is not None else {}
        return {"role": self.role, "content": self.content, **named}


def parse_messages(value: Any) -> tuple[Message, ...]:
    """Parse a non-empty list of turns; raises `ApiError` 400."""
    if not isinstance(value, list) or not value:
        _refuse_input("messages", "'messages' must be a list with at least one message")
    return tuple(_message(turn, f"messages[{index}]") for index, turn in enumerate(value))


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        _refuse_input(where, f"{where} must be an object with 'role' and 'content'")
    # The role first: "tools are not supported" helps more than a complaint about tool_call_id.
    role = _role(turn.get("role"), where)
    known = unsupported_fields.keep_supported(
        turn, ("role", "content", "name"), unsupported_fields.MESSAGE, where=f"{where}."
    )
    name = known.get("name")
    if name is not None and not isinstance(name, str):
        _refuse_input(f"{where}.name", f"{where}.name must be a string")
    return Message(role, _content(known.get("content"), f"{where}.content"), name)


def _role(role: Any, where: str) -> str:
    if role in TOOL_ROLES:
        _refuse_input(f"{where}.role", f"{where}.role '{role}' is not supported: tools are not")
    if not isinstance(role, str):
        _refuse_input(f"{where}.role", f"{where}.role must be one of {', '.join(ROLES)}")
    if role not in ROLES:
        _refuse_input(f"{where}.role", f"{where}: {unknown_name_message('role', role, ROLES)}")
    return "system" if role == "developer" else role


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        _refuse_input(where, f"{where} must be a string or a list of text parts")
    return "\n".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        _refuse_input(where, f"{where} must be an object like {{'type': 'text', 'text': '...'}}")
    if part.get("type") != "text":
        kind = shown(part.get("type"))
        _refuse_input(where, f"{where} is of type {kind}: only 'text' is supported")
    known = unsupported_fields.keep_supported(part, ("type", "text"), {}, where=f"{where}.")
    text = known.get("text")
    if not isinstance(text, str):
        _refuse_input(f"{where}.text", f"{where}.text must be a string")
    return text


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
    neutral = {"include_obfuscation": lambda flag: flag is False}
    return unsupported_fields.keep_supported(
        value, StreamOptions.model_fields, neutral, where="stream_options."
    )


class GenerationBody(BaseModel):
    """The fields that chat and completion requests have in common."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", arbitrary_types_allowed=True
    )
    unsupported: ClassVar[dict[str, unsupported_fields.Neutral]]
    elsewhere: ClassVar[tuple[str, str, str]]
    """The other route's field for what is said, that route, and the field of this one."""

    model: str = Field(min_length=1, max_length=MAX_MODEL)
    stream: bool = False
    stream_options: Annotated[StreamOptions | None, BeforeValidator(_parse_stream_options)] = None
    max_tokens: int | None = Field(None, ge=0)
    min_tokens: int = Field(0, ge=0)
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
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
    priority: int = Field(0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)

    @property
    def new_tokens(self) -> int | None:
        """The most new tokens; None: as many as fit."""
        return self.max_tokens

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
        if self.stream_options is not None and not self.stream:
            _refuse("stream_options", "'stream_options' needs 'stream': true")
        if self.prompt_logprobs is not None and self.stream:
            _refuse("prompt_logprobs", "'prompt_logprobs' are not streamed; leave 'stream' out")
        limit = self.new_tokens
        if limit is not None and self.min_tokens > limit:
            _refuse(
                "min_tokens",
                f"'min_tokens' = {self.min_tokens} is more than the {limit} new tokens allowed; "
                "lower it or raise 'max_tokens'",
            )


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

    @property
    def new_tokens(self) -> int | None:
        """The most new tokens: `max_completion_tokens`, or `max_tokens`, its older name."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """The number of log-probabilities: `top_logprobs` if `logprobs` is set."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        """Rules that involve several fields; raise `ApiError` 400."""
        super().check()
        if self.max_tokens not in (None, self.new_tokens):
            _refuse(
                "max_tokens",
                f"'max_tokens' = {self.max_tokens} and 'max_completion_tokens' = "
                f"{self.max_completion_tokens} differ; give one of them",
            )
        if self.top_logprobs is not None and not self.logprobs:
            _refuse("top_logprobs", "'top_logprobs' needs 'logprobs': true")
        if self.continue_final_message and self.add_generation_prompt:
            _refuse(
                "continue_final_message",
                "'continue_final_message' and 'add_generation_prompt' exclude each other",
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
