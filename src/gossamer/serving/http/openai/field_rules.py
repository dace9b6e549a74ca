"""What becomes of fields that are known and not carried out: one rule, and each decision with its
reason.

What would change the answer is done, or else refused: ignoring it would answer another question.
What cannot change it (labels, hints, wishes of storage) is taken and ignored, as are values that
ask for what is done anyway, since common clients send such defaults. The reference page of the
interface is made of these tables.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Neutral = Callable[[Any], bool]
"""Tells whether a value asks for nothing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A decision about one field."""

    takes: Neutral
    """Which values are taken, and ignored; all others are refused."""
    taken: str
    """Words for `takes`, which people read."""
    reason: str
    """Why what is taken can be ignored, or why what is refused cannot be done."""

    def __call__(self, value: Any) -> bool:
        """Tell whether `value` is taken."""
        return self.takes(value)


def _ignored(reason: str) -> Rule:
    return Rule(lambda value: True, "anything", reason)


def _refused(reason: str) -> Rule:
    return Rule(lambda value: False, "nothing", reason)


def _only(*values: Any, reason: str) -> Rule:
    # 1 == True in Python, so types are compared too.
    def takes(value: Any) -> bool:
        return any(type(value) is type(each) and value == each for each in values)

    shown = dict.fromkeys(_written(value) for value in values)
    return Rule(takes, " or ".join(shown), reason)


def _empty(reason: str) -> Rule:
    return Rule(lambda value: value in ([], {}, ""), "what is empty", reason)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`".replace("'", '"')


OTHERS = "*"
"""Stands for all fields that a table does not name."""

_LABEL = "a label of the call or of who makes it; no part of what the model sees"
_CACHE = "a hint to caches: the beginnings of prompts are kept by their tokens in any case"
_BEAMS = "of beam search only"
_SAMPLER = "another way to draw tokens than those that are offered"
_SHAPE = "another shape of answers than OpenAI's"

_COMMON: dict[str, Rule] = {
    "user": _ignored(_LABEL),
    "metadata": _ignored(_LABEL),
    "safety_identifier": _ignored(_LABEL),
    "request_id": _ignored(_LABEL + "; the header X-Request-Id tells the server's own"),
    "prompt_cache_key": _ignored(_CACHE),
    "prompt_cache_options": _ignored(_CACHE),
    "prompt_cache_retention": _ignored(_CACHE),
    "cache_prompt": _ignored(_CACHE),
    "cache_salt": _ignored(_CACHE + ", and for each tenant apart"),
    "keep_alive": _ignored("a hint how long to keep the model; it is served as long as the server"),
    "service_tier": _ignored("a tier of price; among a tenant's requests `priority` decides"),
    "store": _ignored("a wish of storage: calls are not stored, and the answer is the same"),
    "length_penalty": _ignored(_BEAMS),
    "early_stopping": _ignored(_BEAMS),
    "use_beam_search": _only(False, reason="there is no beam search"),
    "guided_decoding_backend": _ignored("names a library; what is allowed does not depend on it"),
    "guided_whitespace_pattern": _refused("the white space of JSON is not to be chosen"),
    "spaces_between_special_tokens": _only(True, reason="texts are what their tokens say"),
    "return_tokens_as_token_ids": _only(False, reason=_SHAPE),
    "return_token_ids": _only(False, reason=_SHAPE),
    "truncate_prompt_tokens": _refused("prompts are not cut; send what the model is to see"),
    "allowed_token_ids": _refused(_SAMPLER + "; `structured_outputs` has choices"),
    "logits_processors": _refused("the server runs no code of clients"),
    "typical_p": _only(1, 1.0, reason=_SAMPLER),
    "tfs_z": _only(1, 1.0, reason=_SAMPLER),
    "mirostat": _only(0, reason=_SAMPLER),
    "n_predict": _refused("send `max_tokens`"),
    "options": _empty("send its fields beside `model`"),
    "think": _refused('send `chat_template_kwargs`: {"enable_thinking": ...}'),
}

CHAT: dict[str, Rule] = {
    **_COMMON,
    "best_of": _only(1, reason="of /v1/completions"),
    "functions": _empty("the older name of `tools`"),
    "function_call": _only("none", "auto", reason="the older name of `tool_choice`"),
    "modalities": _only(["text"], reason="answers are text"),
    "audio": _refused("answers are text"),
    "prediction": _refused("answers are not compared with a text that was sent"),
    "moderation": _refused("answers are not judged"),
    "web_search_options": _refused("nothing is searched"),
    "chat_template": _refused("the model's own template lays conversations out"),
    "documents": _empty("put their texts into a message"),
    "echo": _only(False, reason="of /v1/completions; `continue_final_message` goes on with a text"),
    "add_special_tokens": _only(False, reason="the template writes all special tokens"),
    "include_reasoning": _only(True, reason="answers are given whole"),
}
"""Fields of POST /v1/chat/completions."""

COMPLETION: dict[str, Rule] = {
    **_COMMON,
    "suffix": _empty("models fill no gaps here; lay the gap out in the prompt"),
    "prompt_embeds": _refused("prompts are texts or token ids"),
    "add_special_tokens": _only(True, reason="send token ids to have none added"),
}
"""Fields of POST /v1/completions."""

_KEPT = "what programs keep beside a text; no part of it"

MESSAGE: dict[str, Rule] = {
    "tool_calls": _empty("only the assistant calls tools"),
    "tool_call_id": _refused("only the results of tools have one"),
    "function_call": _refused("the older name of `tool_calls`"),
    "audio": _refused("messages are text"),
    "refusal": _refused("send what was said as `content`"),
    "annotations": _ignored(_KEPT),
    "parsed": _ignored(_KEPT + "; OpenAI's client makes it of `content`"),
    "reasoning_content": _ignored("of the assistant's turns, where templates read it"),
    "reasoning": _ignored("of the assistant's turns, where templates read it"),
    "reasoning_details": _ignored(_KEPT),
    "provider_specific_fields": _ignored(_KEPT),
    "cache_control": _ignored(_CACHE),
    "id": _ignored(_KEPT),
    "timestamp": _ignored(_KEPT),
}
"""Fields of messages."""

PART: dict[str, Rule] = {
    "cache_control": _ignored(_CACHE),
    OTHERS: _ignored("only `text` of a part is read"),
}
"""Fields of the parts of a message."""

TOOL: dict[str, Rule] = {
    "strict": _ignored("calls that a grammar makes keep to the schema in any case"),
    "cache_control": _ignored(_CACHE),
}
"""Fields of a tool's function."""

STREAM: dict[str, Rule] = {
    "include_obfuscation": _only(False, reason="events are not padded"),
}
"""Fields of `stream_options`."""

_SENT_ONLY = "what is not in the call is not known; send it as `input`"

RESPONSES: dict[str, Rule] = {
    "user": _ignored(_LABEL),
    "safety_identifier": _ignored(_LABEL),
    "prompt_cache_key": _ignored(_CACHE),
    "prompt_cache_options": _ignored(_CACHE),
    "prompt_cache_retention": _ignored(_CACHE),
    "service_tier": _COMMON["service_tier"],
    "include": Rule(
        lambda value: isinstance(value, list) and "message.output_text.logprobs" not in value,
        "all but `message.output_text.logprobs`",
        "parts of answers that there are none of; log-probabilities are those of chats",
    ),
    "max_tool_calls": _ignored("limits tools that run on the server, of which there are none"),
    "stream_options": _ignored("events are not padded, and the last one tells the usage"),
    "truncation": _only("disabled", reason="prompts are not cut; send what the model is to see"),
    "background": _only(False, reason="calls are answered while their client waits"),
    "top_logprobs": _only(0, reason="log-probabilities are those of chats"),
    "conversation": _refused(_SENT_ONLY),
    "prompt": _refused(_SENT_ONLY),
}
"""Fields of POST /v1/responses."""

REASONING: dict[str, Rule] = {
    "summary": _ignored("thoughts are told whole, where the model's family marks them"),
    "generate_summary": _ignored("the older name of `summary`"),
}
"""Fields of `reasoning` in POST /v1/responses; `effort` is told to the template."""

MESSAGES: dict[str, Rule] = {
    "metadata": _ignored(_LABEL),
    "service_tier": _COMMON["service_tier"],
    "cache_control": _ignored(_CACHE),
    "inference_geo": _ignored("a wish where to compute; there is this server"),
    "context_management": _ignored("what is sent is shown to the model, whole"),
    "container": _empty("nothing is run on the server"),
    "mcp_servers": _empty("nothing is asked of other servers"),
    "diagnostics": _ignored("a wish to hear of caches"),
    "speed": _ignored("a tier of price; the server is as fast as it is"),
    "user_profile_id": _ignored(_LABEL),
    "workspace_id": _ignored(_LABEL),
}
"""Fields of POST /v1/messages, Anthropic's."""

BLOCK: dict[str, Rule] = {
    "cache_control": _ignored(_CACHE),
    "citations": _ignored(_KEPT),
    OTHERS: _ignored("only `text` of a block is read"),
}
"""Fields of blocks of text in POST /v1/messages."""

TOOL_BLOCK: dict[str, Rule] = {
    "cache_control": _ignored(_CACHE),
    "caller": _ignored(_KEPT),
    "toolset_name": _ignored(_KEPT),
}
"""Fields of `tool_use` and `tool_result` in POST /v1/messages; the text of a result with `is_error`
begins with `Error: `."""

CLIENT_TOOL: dict[str, Rule] = {
    **TOOL,
    "eager_input_streaming": _ignored("what a call says is streamed as it comes in any case"),
    "defer_loading": _ignored("a hint to shorten prompts; each tool is shown from the start"),
    "allowed_callers": _only(["direct"], reason="no programs run here that could call tools"),
}
"""Fields of `tools` in POST /v1/messages; `input_examples` are shown to the model as the `examples`
of the schema."""

THINKING: dict[str, Rule] = {
    "budget_tokens": _ignored("templates know no number; `max_tokens` bounds thoughts too"),
    "display": _ignored("thoughts are told whole, where the model's family marks them"),
}
"""Fields of `thinking` in POST /v1/messages; `type` is told to the template."""

TABLES = {
    "both of OpenAI's older routes": _COMMON,
    "`/v1/chat/completions`": {k: v for k, v in CHAT.items() if k not in _COMMON},
    "`/v1/completions`": {k: v for k, v in COMPLETION.items() if k not in _COMMON},
    "messages": MESSAGE,
    "parts of messages": PART,
    "functions of `tools`": TOOL,
    "`stream_options`": STREAM,
    "`/v1/responses`": RESPONSES,
    "`reasoning` of `/v1/responses`": REASONING,
    "`/v1/messages`": MESSAGES,
    "blocks of text of `/v1/messages`": BLOCK,
    "`tool_use` and `tool_result` of `/v1/messages`": TOOL_BLOCK,
    "`tools` of `/v1/messages`": CLIENT_TOOL,
    "`thinking` of `/v1/messages`": THINKING,
}
"""All decisions, by where the fields are."""
