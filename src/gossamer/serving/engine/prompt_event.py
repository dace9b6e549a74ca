"""Makes the event that tells the log-probabilities of a prompt."""

from gossamer.serving.core.messages import Request, TokenLogprob, Tokens
from gossamer.serving.core.prompt_scores import PromptScores
from gossamer.serving.tokenization.vocabulary import Vocabulary


def prompt_event(request: Request, scores: PromptScores, vocabulary: Vocabulary) -> Tokens:
    """Return the event of `request`, whose prompt has all its `scores`."""
    text_of = vocabulary.text_of
    told: list[TokenLogprob | None] = [None] * scores.first
    for number, token in enumerate(request.prompt_token_ids[scores.first :]):
        told.append(
            TokenLogprob(
                token_id=token,
                text=text_of(token),
                logprob=scores.logprobs[number],
                top=tuple((t, text_of(t), value) for t, value in scores.top(scores.first + number)),
                rank=scores.ranks[number],
            )
        )
    return Tokens(request_id=request.request_id, token_ids=(), text="", prompt_logprobs=tuple(told))
