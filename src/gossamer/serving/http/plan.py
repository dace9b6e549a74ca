"""One call to the requests of the engine: one for each prompt and choice."""

from gossamer.serving.http.encode import TokenIds
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.schema import MAX_SEED, GenerationBody
from gossamer.serving.messages import DEFAULT_TENANT, Request, SamplingParams


def plan(
    body: GenerationBody,
    prompts: list[TokenIds],
    *,
    reply_id: str,
    model_name: str,
    max_context: int,
    tenant: str = DEFAULT_TENANT,
) -> list[Request]:
    """Requests in the order of the choices: all of the first prompt, then of the second.

    The base model's own name asks for no adapter. Raises `ApiError` 400 for a prompt that is
    empty or leaves no room in the context.
    """
    for prompt in prompts:
        _check_length(len(prompt), body.new_tokens, max_context)
    adapter = None if body.model == model_name else body.model
    samplings = [_sampling(body, choice) for choice in range(body.n)]
    return [
        Request(
            request_id=f"{reply_id}-{number * body.n + choice}",
            prompt_token_ids=prompt,
            adapter=adapter,
            sampling=sampling,
            tenant=tenant,
            priority=body.priority,
        )
        for number, prompt in enumerate(prompts)
        for choice, sampling in enumerate(samplings)
    ]


def _sampling(body: GenerationBody, choice: int) -> SamplingParams:
    # Seeds count up per choice and start anew for each prompt, so that a prompt gives the same
    # whether it is sent alone or among others. Negative ones, which OpenAI allows, wrap round.
    seed = None if body.seed is None else (body.seed + choice) & MAX_SEED
    return SamplingParams(
        max_tokens=body.new_tokens,
        min_tokens=body.min_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=max(body.top_k, 0),
        min_p=body.min_p,
        seed=seed,
        stop=body.stop,
        ignore_eos=body.ignore_eos,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logprobs=body.num_logprobs,
    )


def _check_length(num_prompt: int, new_tokens: int | None, max_context: int) -> None:
    if num_prompt == 0:
        raise ApiError(400, "the prompt is empty; give at least one token", code="invalid_value")
    if num_prompt + (new_tokens or 1) <= max_context:
        return
    if num_prompt >= max_context:
        what = f"the prompt has {num_prompt} tokens, which leaves no room for an answer"
    else:
        what = (
            f"the prompt has {num_prompt} tokens and {new_tokens} new ones are asked for; "
            f"lower 'max_tokens' to {max_context - num_prompt} or less"
        )
    raise ApiError(
        400,
        f"the context of this model is {max_context} tokens: {what}",
        code="context_length_exceeded",
    )
