"""One call to the requests of the engine: one for each prompt and choice."""

from gossamer.serving.http.encode import TokenIds
from gossamer.serving.http.schema import MAX_SEED, GenerationBody
from gossamer.serving.http.sizes import check_length
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
        check_length(len(prompt), body.new_tokens, max_context)
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
