"""Routes, fields of the bodies, fields that are refused, metrics."""

from collections.abc import Iterator
from typing import Any

from fastapi.routing import APIRoute
from prometheus_client import Counter, Histogram
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from generator.markdown import one_line, table
from generator.settings import type_name
from generator.sources import attribute_docs
from gossamer.serving.core.messages import SamplingParams
from gossamer.serving.http import body
from gossamer.serving.http.anthropic import routes as anthropic
from gossamer.serving.http.metrics import memory as memory_metrics
from gossamer.serving.http.metrics import routing as routing_metrics
from gossamer.serving.http.metrics import server as metrics
from gossamer.serving.http.metrics import tenants as tenant_metrics
from gossamer.serving.http.openai import field_rules, sampling_fields, sizes
from gossamer.serving.http.openai import request_schema as schema
from gossamer.serving.http.openai import routes as openai
from gossamer.serving.http.openai.chat import bounds, template_variables
from gossamer.serving.http.openai.request_schema import ChatBody, CompletionBody, GenerationBody
from gossamer.serving.http.openai.responses_api import routes as responses
from gossamer.serving.http.routes import about, adapters, operation, tokens
from gossamer.serving.http.routes import adapters as adapter_bodies
from gossamer.serving.http.settings import HttpSettings
from gossamer.studio.assembly import ROUTES
from gossamer.studio.routes import session

# What the types alone do not say.
MEANING = {
    "model": "The base model's name, an adapter's, or several adapters with weights: a:0.7+b:0.3.",
    "messages": "The conversation; rendered with the base model's chat template.",
    "prompt": "A text, a list of texts, a list of token ids, or a list of such lists.",
    "stream": "Send the answer piece by piece as server-sent events.",
    "stream_options": '`{"include_usage": true}`: the last event carries the usage;'
    ' `{"continuous_usage_stats": true}`: each chunk carries that so far.',
    "max_tokens": "New tokens at most; 0: none, where only the prompt is of interest.",
    "max_completion_tokens": "The newer name of `max_tokens`, which counts if both are there.",
    "temperature": "0 is greedy.",
    "top_p": "Choose among the likeliest tokens that together have this probability.",
    "top_k": "Choose among this many of the likeliest tokens; 0 or -1: all.",
    "min_p": "Leave out tokens less likely than this share of the likeliest one.",
    "stop": "A text, or up to several, that ends the answer and is not part of it.",
    "stop_token_ids": "Tokens that end the answer as the end-of-text token does.",
    "include_stop_str_in_output": "Whether what ended the answer is part of its text.",
    "skip_special_tokens": "Whether special tokens are no part of the text.",
    "bad_words": "Texts that are not to be generated, as the tokenizer writes them.",
    "logit_bias": "What is added to logits, -100 to 100 by token id.",
    "repetition_penalty": "Logits of tokens of prompt and answer are divided by it where they"
    " are positive, and multiplied where not.",
    "best_of": "Draw this many answers to each prompt, and give the `n` of the highest mean"
    " log-probability; not streamed.",
    "echo": "Whether answers begin with the prompt; with `logprobs` its tokens have theirs too, the"
    " first one `null`.",
    "prompt_logprobs": "Log-probabilities of the tokens of the prompt, and of this many of the"
    " likeliest ones in their place, as vLLM gives them; not streamed.",
    "response_format": "The form of the answer: text, json_object, or json_schema with a schema"
    " ([the guide](../guides/structured-outputs.md)).",
    "structured_outputs": "The form of the answer, as vLLM has it: one of json (a schema), regex,"
    " choice, grammar.",
    "guided_json": "The older name of `structured_outputs.json`; so are `guided_regex`,"
    " `guided_choice` and `guided_grammar`.",
    "reasoning_effort": "How much to think, such as `low`: told to the chat template, which may"
    " read it; `none` is told as `enable_thinking: false` too.",
    "verbosity": "How much to say, such as `low`: told to the chat template, which may read it.",
    "n": "Answers to each prompt.",
    "presence_penalty": "Taken off the logit of each token that has been generated.",
    "frequency_penalty": "Taken off the logit of a token for each time it was generated.",
    "priority": "Of the requests of a tenant, those with a lower number start first.",
    "ignore_eos": "Go on after the end-of-text token.",
    "top_logprobs": "The number of likeliest tokens that are listed with each chosen one.",
    "add_generation_prompt": "Whether the template opens the assistant's turn.",
    "continue_final_message": "Go on with the last message rather than answer it.",
    "tools": "Functions that the answer may call ([the guide](../guides/tools.md)).",
    "tool_choice": "none, auto, required, or a tool by name.",
    "parallel_tool_calls": "Whether an answer may have several calls.",
    "chat_template_kwargs": "Variables of the model's chat template, such as"
    ' `{"enable_thinking": false}`.',
}

LOGPROBS = {
    ChatBody: "Whether log-probabilities of the chosen tokens are returned.",
    CompletionBody: "Log-probabilities of the chosen token and of this many of the likeliest ones.",
}


def page() -> str:
    """docs/reference/http.md."""
    return "\n\n".join(
        [
            "# HTTP",
            "The interface is OpenAI's. An adapter is a name in `model`. A field that is not listed"
            " here is refused with status 400; the"
            " [decisions](#fields-that-are-ignored-or-refused) say why.",
            table(["route", "what it does"], _routes()),
            "A server with `--jobs` has these too ([the guide](../guides/jobs.md)); they need a"
            " tenant with `train`, or an administrator. With `--studio` it has the page's.",
            table(["route", "what it does"], _routes_of(*ROUTES, session)),
            "## Fields of POST /v1/chat/completions",
            _body(ChatBody),
            "## Fields of POST /v1/completions",
            _body(CompletionBody),
            "## Fields of the routes of adapters",
            "They need an administrator's key, and a server that has keys (`--api-key`, `--keys`).",
            *(part for kind in adapter_bodies.BODIES for part in _adapter_body(kind)),
            "## Fields that are ignored or refused",
            "What would change the answer is done, or else refused: ignoring it would answer"
            " another question. What cannot change it is taken and ignored, as are values that ask"
            " for what is done anyway. `null` is as if a field were left out; a field that is"
            " listed nowhere is refused, with the name that was meant.",
            *(part for where, rules in field_rules.TABLES.items() for part in _rules(where, rules)),
            "## Errors",
            'An error is `{"error": {"message", "type", "param", "code"}}`; the'
            " [table of errors](errors.md) tells statuses and codes. Status 429 comes with"
            " `Retry-After`.",
            "## Limits of one call",
            "What has more is refused before it is worked on, in a sentence that names the limit"
            " and the option that changes it, if there is one.",
            table(["what", "at most"], _limits()),
            "Bodies are JSON: they have the header `Content-Type: application/json`, or none where"
            " no browser sends them (status 415 otherwise), and no `Content-Encoding`. A server"
            " without keys asks for its own name in `Host` (status 421), and no call without a key"
            " changes anything for a web page of another origin (status 403); see"
            " [Keys and the network](../guides/serve.md#keys-and-the-network).",
            "## Metrics",
            table(["metric", "type", "what it says"], _metrics()),
        ]
    )


def _rules(where: str, rules: dict[str, field_rules.Rule]) -> Iterator[str]:
    yield f"Of {where}:"
    rows = [
        ("all others" if name == field_rules.OTHERS else f"`{name}`", rule.taken, rule.reason)
        for name, rule in rules.items()
    ]
    yield table(["field", "taken", "why it changes nothing, or why more is refused"], rows)


def _limits() -> Iterator[tuple[str, str]]:
    default = HttpSettings()
    yield "head (address and headers)", f"{default.max_header_kib} KiB (`--max-header-kib`)"
    yield "body", f"{default.max_body_mib:g} MiB (`--max-body-mib`)"
    yield "values in a body", f"{body.MAX_VALUES:,}"
    yield "lists, objects and their fields in a body", f"{body.MAX_CONTAINERS:,}"
    yield "fields of a body", str(sizes.MAX_FIELDS)
    yield "prompts times `n`", f"{default.max_choices} (`--max-choices`)"
    yield "token ids of a prompt, messages, parts of messages", "the context (`--max-context`)"
    yield "characters of a text or conversation", "the context times the longest token's length"
    characters = f"of {sampling_fields.MAX_STOP_CHARACTERS:,} characters"
    yield "texts in `stop`", f"{sampling_fields.MAX_STOPS}, {characters}"
    yield "texts in `bad_words`", f"{sampling_fields.MAX_BAD_WORDS}, {characters}"
    yield "tokens in `logit_bias`, `stop_token_ids`", f"{sampling_fields.MAX_NAMED_TOKENS:,}"
    yield "`tools`; calls of a message", f"{bounds.MAX_TOOLS}; {bounds.MAX_CALLS}"
    yield "levels of parameters, of arguments", str(bounds.MAX_DEPTH)
    yield "values in `chat_template_kwargs`", str(template_variables.MAX_VARIABLES)
    yield "characters of `model`", str(schema.MAX_MODEL)


def _routes() -> Iterator[tuple[str, str]]:
    yield from _routes_of(openai, responses, anthropic, tokens, adapters, operation, about)


def _routes_of(*modules: Any) -> Iterator[tuple[str, str]]:
    for module in modules:
        for route in module.router.routes:
            if isinstance(route, APIRoute):
                verbs = " ".join(sorted(set(route.methods or ()) - {"HEAD"}))
                yield f"`{verbs} {route.path}`", one_line(route.endpoint.__doc__)


def _body(kind: type[GenerationBody]) -> str:
    docs = {**attribute_docs(SamplingParams), **MEANING, "logprobs": LOGPROBS[kind]}
    rows = [
        (f"`{name}`", f"`{type_name(info.annotation)}`", _allowed(info), docs.get(name, ""))
        for name, info in sorted(
            kind.model_fields.items(), key=lambda item: not item[1].is_required()
        )
    ]
    return table(["field", "type", "default, limits", "meaning"], rows)


def _adapter_body(kind: type[BaseModel]) -> Iterator[str]:
    docs = attribute_docs(kind)
    rows = [
        (f"`{name}`", f"`{type_name(info.annotation)}`", _default(info), docs.get(name, ""))
        for name, info in kind.model_fields.items()
    ]
    yield "### " + str(kind.__doc__).removeprefix("The body of ").rstrip(".")
    yield table(["field", "type", "default", "meaning"], rows)


def _default(info: FieldInfo) -> str:
    return "required" if info.is_required() else f"`{info.default}`"


def _allowed(info: FieldInfo) -> str:
    parts = ["required" if info.is_required() else f"`{info.default}`"]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    for limit in info.metadata:
        parts += [f"{s} {getattr(limit, k)}" for k, s in signs.items() if hasattr(limit, k)]
    return ", ".join(parts)


def _metrics() -> Iterator[tuple[str, str, str]]:
    for name, _, text in (*metrics.GAUGES, *memory_metrics.GAUGES):
        yield f"`gossamer_{name}`", "gauge", text
    name, text = metrics.MERGED
    yield f"`{name}`", "gauge", f"{text} (label `adapter`)"
    for name, _, text in (*metrics.COUNTERS, *memory_metrics.COUNTERS):
        yield f"`gossamer_{name}_total`", "counter", text
    for metric in _own_metrics():
        kind = "counter" if isinstance(metric, Counter) else "histogram"
        suffix = "_total" if isinstance(metric, Counter) else ""
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        by = f" (labels {labels})" if labels else ""
        yield f"`{metric._name}{suffix}`", kind, metric._documentation + by
    for name, _, text in tenant_metrics.GAUGES:
        yield f"`gossamer_{name}`", "gauge", f"{text} (label `tenant`)"
    for name, _, text in tenant_metrics.COUNTERS:
        yield f"`gossamer_{name}_total`", "counter", f"{text} (label `tenant`)"
    name, text = tenant_metrics.REFUSED
    yield f"`gossamer_{name}_total`", "counter", f"{text} (labels `tenant`, `reason`)"
    for name, text in (memory_metrics.HITS, memory_metrics.STEP_SECONDS):
        yield f"`gossamer_{name}_total`", "counter", text
    for histogram in ("READING", "STEP_ADAPTERS", "STEP_RANK"):
        name, text = getattr(memory_metrics, histogram)
        yield f"`gossamer_{name}`", "histogram", text
    name, text = metrics.CONNECTIONS
    yield f"`{name}`", "gauge", text
    name, text = metrics.CONNECTIONS_CUT
    yield f"`{name}_total`", "counter", text
    yield "`gossamer_requests_finished_total`", "counter", "Requests by `reason` of their end"
    yield "`gossamer_adapters`", "gauge", "Adapters by `state`"
    yield "`gossamer_adapter_resident_bytes`", "gauge", "Bytes of a resident `adapter`"
    for name, text in (*routing_metrics.GAUGES, routing_metrics.ADAPTERS):
        yield f"`{name}`", "gauge", text


def _own_metrics() -> list[Any]:
    registered = metrics.Metrics(_NoEngine())  # type: ignore[arg-type]
    return [m for m in vars(registered).values() if isinstance(m, Counter | Histogram)]


class _NoEngine:
    """Stands where an engine is only asked for when metrics are read."""
