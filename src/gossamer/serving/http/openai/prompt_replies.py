"""What replies say of prompts: their text (`echo`) and the log-probabilities of their tokens."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gossamer.serving.core.messages import TokenLogprob
from gossamer.serving.tokenization.vocabulary import Vocabulary

LOWEST_LOGPROB = -9999.0
"""The number that stands for minus infinity, which JSON cannot say; OpenAI's convention."""


def finite(logprob: float) -> float:
    """Bring a log-probability into a form that JSON can say."""
    return logprob if logprob > LOWEST_LOGPROB else LOWEST_LOGPROB


@dataclass(frozen=True, slots=True)
class EchoedPrompt:
    """A prompt that stands before the answers to it."""

    text: str
    """What the client has sent, or what its token ids say."""
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Echo:
    """The prompts of one call, and how many answers each has."""

    prompts: Sequence[EchoedPrompt]
    num_answers: int
    special: frozenset[int]
    """Special tokens, which may stand for nothing in the text."""

    def of(self, index: int) -> EchoedPrompt:
        """Return the prompt of answer `index`."""
        return self.prompts[index // self.num_answers]

    def tokens(self, index: int, vocabulary: Vocabulary) -> Iterator[tuple[int, str, int]]:
        """Give each token of the prompt of answer `index`, its text, and where that begins."""
        prompt = self.of(index)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        offset = 0
        for token in prompt.token_ids:
            text = vocabulary.text_of(token)
            yield token, text, min(offset, len(prompt.text))
            if token in self.special and not prompt.text.startswith(text, offset):
                continue  # The tokenizer has put it there.
            raw = vocabulary.bytes_of(token) if "\ufffd" in text else text.encode()
            offset += len(decoder.decode(raw))


def prompt_logprobs(
    told: Sequence[TokenLogprob | None] | None, num_top: int
) -> list[dict[str, Any] | None] | None:
    """Build vLLM's `prompt_logprobs`: each token and the `num_top` likeliest, by token id."""
    if told is None:
        return None
    return [None if token is None else _by_id(token, num_top) for token in told]


def _by_id(token: TokenLogprob, num_top: int) -> dict[str, Any]:
    found = {str(token.token_id): _entry(token.logprob, token.rank, token.text)}
    for rank, (token_id, text, logprob) in enumerate(token.top[:num_top], start=1):
        found.setdefault(str(token_id), _entry(logprob, rank, text))
    return found


def _entry(logprob: float, rank: int | None, text: str) -> dict[str, Any]:
    return {"logprob": finite(logprob), "rank": rank, "decoded_token": text}
