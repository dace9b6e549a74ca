"""The bodies of requests: OpenAI's fields and the usual extensions.

Types are strict, null counts as absent, ranges are OpenAI's where it has them. Everything else is
refused (see `fields`).
"""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gossamer.serving.http import fields
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.fields import shown
from gossamer.serving.http.inputs import Message, Prompt, parse_messages, parse_prompts, parse_stop
from gossamer.serving.http.sizes import SizeLimits, check_choices, check_sizes

MAX_SEED = 2**63 - 1
MAX_PRIORITY = 1000
MAX_MODEL = 512
"""Characters of a model's name; mixtures have long ones."""


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    include_usage: bool = False


def _parse_stream_options(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    neutral = {"include_obfuscation": lambda flag: flag is False}
    return fields.keep_supported(
        value, StreamOptions.model_fields, neutral, where="stream_options."
    )


class GenerationBody(BaseModel):
    """What chat and completion requests have in common."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", arbitrary_types_allowed=True
    )
    unsupported: ClassVar[dict[str, fields.Neutral]]
    elsewhere: ClassVar[tuple[str, str, str]]
    """The other route's field for what is said, that route, and the field of this one."""

    model: str = Field(min_length=1, max_length=MAX_MODEL)
    stream: bool = False
    stream_options: Annotated[StreamOptions | None, BeforeValidator(_parse_stream_options)] = None
    max_tokens: int | None = Field(None, ge=1)
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
    ignore_eos: bool = False
    priority: int = Field(0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)

    @property
    def new_tokens(self) -> int | None:
        """New tokens at most; None: as many as fit."""
        return self.max_tokens

    @property
    def num_prompts(self) -> int:
        """Prompts, each of which gets `n` choices."""
        return 1

    @property
    @abstractmethod
    def num_logprobs(self) -> int | None:
        """As in `SamplingParams.logprobs`."""

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that carries the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @classmethod
    def parse(cls, values: dict[str, Any], limits: SizeLimits) -> Self:
        """Check a decoded JSON object; raise `ApiError` 400 that names the field and the remedy.

        Takes time that grows with the size of its texts.
        """
        cls._check_route(values)
        check_sizes(values, limits)
        kept = fields.keep_supported(values, cls.model_fields, cls.unsupported)
        try:
            body = cls.model_validate(kept)
        except ValidationError as error:
            raise _first_problem(error) from None
        body.check()
        check_choices(body.num_prompts * body.n, limits.max_choices)
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
        limit = self.new_tokens
        if limit is not None and self.min_tokens > limit:
            _refuse(
                "min_tokens",
                f"'min_tokens' = {self.min_tokens} is more than the {limit} new tokens allowed; "
                "lower it or raise 'max_tokens'",
            )


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    unsupported = fields.CHAT
    elsewhere = ("prompt", "/v1/completions", "messages")

    messages: Annotated[tuple[Message, ...], BeforeValidator(parse_messages)]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False

    @property
    def new_tokens(self) -> int | None:
        """`max_completion_tokens`, or `max_tokens`, its older name."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """`top_logprobs` if `logprobs` is set."""
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
    """POST /v1/completions."""

    unsupported = fields.COMPLETION
    elsewhere = ("messages", "/v1/chat/completions", "prompt")

    prompt: Annotated[tuple[Prompt, ...], BeforeValidator(parse_prompts)]
    max_tokens: int | None = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def num_prompts(self) -> int:
        """Texts or lists of token ids."""
        return len(self.prompt)

    @property
    def num_logprobs(self) -> int | None:
        """The field itself."""
        return self.logprobs


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
