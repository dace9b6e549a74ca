"""Follows a request on its way: its tokens, what is computed of them, its blocks."""

import math
from dataclasses import dataclass, field

from gossamer.serving.core.adapter import AdapterEntry, AnyAdapter
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.messages import Request
from gossamer.serving.core.prompt_scores import PromptScores

UNKNOWN = -1
"""Stands in `token_ids` for a sequence's next token while the step that gives it is in flight."""


@dataclass(eq=False, slots=True, kw_only=True)
class Sequence:
    """Holds one sequence; `token_ids[:num_computed]` have their keys and values in `blocks`.

    A sequence whose tokens are all computed but the last one decodes; with more to compute it
    prefills. After a preemption it starts over with the tokens it has. Only its last token may be
    `UNKNOWN`, and that counts as if it were there.
    """

    request: Request
    adapter: AnyAdapter | None
    max_new_tokens: int
    token_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    blocks: list[int] = field(default_factory=list)
    num_skipped: int = 0
    """How often a later request was admitted before this one while it waited."""
    arrived: float = math.nan
    """When it came, in seconds on the scheduler's clock."""
    admitted: float | None = None
    """When it first left the queue."""
    last_step: int = -1
    """The number of the step that computed it last."""
    keys: list[bytes] = field(default_factory=list)
    """Names of its first blocks in the prefix cache."""
    key_root: bytes | None = None
    """The root on which those names depend."""
    num_offered: int = 0
    """Blocks that were offered to the prefix cache since it was admitted."""
    num_cached: int = 0
    """Tokens of the prompt that were not computed, since the prefix cache had them."""
    prefix_of: AdapterEntry | None = None
    """The adapter whose virtual tokens these are (`token_ids` says only how many): they lie at the
    ends of `blocks`, which are the adapter's. None: it is somebody's request."""
    judged_in: tuple[AdapterState | None, int | None, int, int | None] | None = None
    """The circumstances (`admission.Circumstances`) in which it was last asked whether it can ever
    run."""
    token_charge: float = 0.0
    """What its tenant is charged for each of its new tokens, since it was admitted."""
    # Fields and no properties, since each step asks for them several times.
    tenant: str = field(init=False)
    """The tenant that has sent the request."""
    num_prompt: int = field(init=False)
    """The number of tokens of the prompt."""
    scores: PromptScores | None = field(init=False, default=None)
    """The scores of its prompt so far; None: it asks for none."""
    num_scores_offered: int = 0
    """Blocks whose scores were offered to the prefix cache."""
    unscored: int = field(init=False)
    """The first token of the prompt that is still to be scored, in no step yet: it and all behind
    it; if there is none, the number of tokens of the prompt."""

    def __post_init__(self) -> None:
        self.tenant = self.request.tenant
        self.num_prompt = self.unscored = len(self.request.prompt_token_ids)
        sampling = self.request.sampling
        if sampling.prompt_logprobs is not None:
            self.unscored = min(max(1, sampling.prompt_logprobs_from), self.num_prompt)
            self.scores = PromptScores(self.unscored, sampling.prompt_logprobs)

    @property
    def priority(self) -> int:
        """Return its priority: a lower number starts first among its tenant's."""
        return self.request.priority

    @property
    def has_unknown(self) -> bool:
        """Tell whether its last token is not known yet."""
        return self.token_ids[-1] == UNKNOWN

    @property
    def num_generated(self) -> int:
        """Return the number of new tokens so far."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_to_compute(self) -> int:
        """Return the number of tokens without keys and values: 1 while decoding."""
        return len(self.token_ids) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """Tell whether only the last, generated token is to be computed."""
        return self.num_to_compute == 1 and self.num_generated > 0

    @property
    def num_left(self) -> int:
        """Return the number of new tokens that may still come."""
        return self.max_new_tokens + self.num_prompt - len(self.token_ids)
