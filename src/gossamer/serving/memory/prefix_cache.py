"""Shares keys and values of prompts between requests of a tenant that begin alike."""

import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

from gossamer.adapters.edit_positions import positions_independent_of_end
from gossamer.serving.core.adapter import AnyAdapter, Heat, value
from gossamer.serving.core.prompt_scores import PromptScores
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.memory import shared_scores
from gossamer.serving.memory.block_pool import BlockPool

KEY_BYTES = 16

_NUM_KEPT = 4096
"""Parents of first blocks that are kept: each running sequence needs its own at each full block."""


def root_of(adapter: AnyAdapter | None, base: bytes = b"") -> bytes | None:
    """Return the parent of a sequence's first block: the model and all that changes it.

    Adapters count by digest (weights and config, scale included), never by name: new weights under
    an old name find nothing of the former ones. None for an adapter that was not read yet.
    """
    used = []
    for entry, weight in adapter.uses if adapter is not None else ():
        if entry.digest is None:
            return None
        used.append((entry.digest, weight))
    return root_of_digests(tuple(used), base)


@lru_cache(_NUM_KEPT)
def root_of_digests(used: tuple[tuple[str, float], ...], base: bytes) -> bytes:
    """Return the parent of first blocks for adapters given as digest and weight."""
    hasher = blake2b(base, digest_size=KEY_BYTES)
    for digest, weight in used:
        hasher.update(f"\n{digest} {weight!r}".encode())
    return hasher.digest()


@lru_cache(_NUM_KEPT)
def of_tenant(root: bytes, tenant: str) -> bytes:
    """Return the parent of a tenant's own first blocks, to whose names no other's tokens lead."""
    # `person` keeps these hashes apart from those of blocks.
    return blake2b(
        root + tenant.encode(errors="surrogatepass"), digest_size=KEY_BYTES, person=b"tenant"
    ).digest()


def extend_keys(sequence: Sequence, root: bytes, block_tokens: int, count: int) -> list[bytes]:
    """Name the first `count` blocks of `sequence`: hash(name of the block before, tokens).

    `root` is the parent of the first one.
    """
    if sequence.key_root != root:
        sequence.key_root, sequence.keys = root, []
    keys = sequence.keys
    tokens = array("q", sequence.token_ids[len(keys) * block_tokens : count * block_tokens])
    width = tokens.itemsize * block_tokens
    content, parent = tokens.tobytes(), keys[-1] if keys else root
    for begin in range(0, len(content), width):
        block = content[begin : begin + width]
        parent = blake2b(parent + block, digest_size=KEY_BYTES).digest()
        keys.append(parent)
    return keys


def num_shareable(sequence: Sequence) -> int | None:
    """Count leading tokens whose keys and values depend on them alone; None: all.

    Interventions edit the last positions of a prompt: what follows cannot be shared with a prompt
    that goes on there.
    """
    limits = [
        positions_independent_of_end(sequence.num_prompt, *entry.edited)
        for entry in (sequence.adapter.parts if sequence.adapter is not None else ())
        if entry.edited is not None
    ]
    return min(limits, default=None)


OWNER = "prefix cache"
"""Owns shared blocks in the pool."""


@dataclass(eq=False, slots=True)
class SharedBlock:
    """Holds a full block under the name of its content."""

    block: int
    key: bytes
    root: bytes
    """The model and the adapters that it was computed with, whichever tenant owns it."""
    users: int = 0
    heat: Heat = field(default_factory=Heat)
    was_shared: bool = False
    """Whether another sequence than the one that computed it has used it."""
    scores: PromptScores | None = None
    """The log-probabilities of its tokens, if a sequence has asked for them."""


class PrefixCache:
    """Finds blocks by name: in use by running sequences, or idle until memory is short.

    A sequence gives its full blocks away as they are computed and goes on as one of their users. A
    block's users also use every block before it, so idle blocks are reclaimed from the ends of
    prompts, and never one that an idle block still builds on.

    Tenants find only their own blocks, since finding one tells what it was computed from: how many
    tokens were found is in every answer, and the time to the first token tells it as well.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_tokens: int,
        *,
        base: str = "",
        enabled: bool = True,
        between_tenants: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """base: the base model's fingerprint; between_tenants: whether tenants find each other's
        blocks."""
        self.enabled = enabled
        self._between_tenants = between_tenants
        self._pool = pool
        self._block_tokens = block_tokens
        self._base = base.encode()
        self._seconds_per_token = 0.0
        self._clock = clock
        self._by_key: dict[bytes, SharedBlock] = {}
        self._by_block: dict[int, SharedBlock] = {}
        self._idle: dict[SharedBlock, None] = {}
        """Idle blocks of resident adapters, in the order in which they are reclaimed."""
        self._idle_by_root: dict[bytes, dict[SharedBlock, None]] = {}
        """Finds the idle blocks of a root."""
        self._orphans: dict[SharedBlock, None] = {}
        """Blocks of adapters that are not resident, which are reclaimed first."""
        self._computed = Heat()
        self._first_shared = Heat()
        """The number of blocks lately that came to be, and that found their first other user."""
        self.num_queried_tokens = 0
        self.num_hit_tokens = 0
        self.num_evictions = 0

    # Sequences.

    def learn_seconds_per_token(self, seconds: float) -> None:
        """Learn what computing a token of a prompt takes: what a kept block saves."""
        self._seconds_per_token = seconds

    def num_hits_in_use(self, sequence: Sequence) -> int:
        """Count the blocks that `sequence` could use because another one holds them now."""
        return sum(block.users > 0 for block in self._match(sequence))

    def start(self, sequence: Sequence) -> None:
        """Give a sequence that starts the blocks it can share: `blocks` and `num_computed`."""
        assert not sequence.blocks
        assert not sequence.num_computed
        found = self._find(sequence)
        shared_scores.take(sequence, [shared.scores for shared in found], self._block_tokens)
        found = self._usable(sequence, found, sequence.unscored)
        for shared in found:
            if not shared.users:
                self._not_idle(shared)
            shared.users += 1
            shared.heat.touch(self._clock())
            if not shared.was_shared:
                shared.was_shared = True
                self._first_shared.touch(self._clock())
        sequence.blocks = [shared.block for shared in found]
        sequence.num_computed = len(found) * self._block_tokens
        sequence.num_offered = len(found)
        if self.enabled and sequence.admitted is None:
            sequence.num_cached = sequence.num_computed
            self.num_queried_tokens += len(sequence.token_ids)
            self.num_hit_tokens += sequence.num_computed

    def computed(self, sequences: Iterable[Sequence]) -> None:
        """More of `sequences` was computed: share the blocks that are full now."""
        if not self.enabled:
            return
        for sequence in sequences:
            if sequence.num_computed // self._block_tokens > sequence.num_offered:
                self._offer(sequence)
            if sequence.scores is not None:
                self._keep_scores(sequence)

    def _offer(self, sequence: Sequence) -> None:
        """Share the full blocks of `sequence` that depend on the tokens in them alone."""
        limit = num_shareable(sequence)
        tokens = sequence.num_computed if limit is None else min(sequence.num_computed, limit)
        count = self._full_blocks(tokens)
        if count <= sequence.num_offered:
            return
        root = root_of(sequence.adapter, self._base)
        if root is None:
            return
        keys, now = self._keys(sequence, root, count), self._clock()
        fresh = [n for n in range(sequence.num_offered, count) if keys[n] not in self._by_key]
        for index in fresh:
            self._share(sequence, sequence.blocks[index], keys[index], root, now)
        self._computed.touch(now, len(fresh))
        sequence.num_offered = count

    def _keep_scores(self, sequence: Sequence) -> None:
        """Keep the scores of shared blocks for others that begin alike."""
        for number, scores in shared_scores.new_parts(sequence, self._block_tokens):
            shared = self._by_key.get(sequence.keys[number])
            if shared is None:
                continue
            if shared.scores is None or shared.scores.num_top < scores.num_top:
                shared.scores = scores

    def release(self, sequence: Sequence) -> None:
        """Take all blocks of a sequence that runs no more; shared ones may be used again."""
        # From the end, so that what others may build on is reclaimed last.
        for block in reversed(sequence.blocks):
            shared = self._by_block.get(block)
            if shared is None:
                self._pool.give([block], sequence)
                continue
            shared.users -= 1
            if not shared.users:
                self._idle[shared] = None
                self._idle_by_root.setdefault(shared.root, {})[shared] = None
        sequence.blocks = []
        sequence.num_offered = 0

    def _full_blocks(self, num_tokens: int) -> int:
        return num_tokens // self._block_tokens

    def _match(self, sequence: Sequence) -> list[SharedBlock]:
        """Shared blocks that `sequence` would take if it started now."""
        found, known = self._find(sequence), sequence.unscored
        if sequence.scores is not None:
            scores = [shared.scores for shared in found]
            known = shared_scores.num_known(sequence, scores, self._block_tokens)
        return self._usable(sequence, found, known)

    def _usable(
        self, sequence: Sequence, found: list[SharedBlock], num_known: int
    ) -> list[SharedBlock]:
        """The beginning of `found` whose tokens need not be computed: its last token always is,
        and the one before the first that is not scored, for the first `num_known` are."""
        tokens = len(sequence.token_ids) if num_known == sequence.num_prompt else num_known
        return found[: self._full_blocks(tokens - 1)]

    def _find(self, sequence: Sequence) -> list[SharedBlock]:
        """Shared blocks with the begin of `sequence`."""
        root = root_of(sequence.adapter, self._base) if self.enabled and self._by_key else None
        if root is None:
            return []
        limit = num_shareable(sequence)
        tokens = len(sequence.token_ids)
        count = self._full_blocks(tokens if limit is None else min(tokens, limit))
        found: list[SharedBlock] = []
        for key in self._keys(sequence, root, count)[:count]:
            shared = self._by_key.get(key)
            if shared is None:
                break
            found.append(shared)
        return found

    def _keys(self, sequence: Sequence, root: bytes, count: int) -> list[bytes]:
        first = root if self._between_tenants else of_tenant(root, sequence.tenant)
        return extend_keys(sequence, first, self._block_tokens, count)

    def _share(self, sequence: Sequence, block: int, key: bytes, root: bytes, now: float) -> None:
        self._pool.hand_over(block, sequence, OWNER)
        shared = SharedBlock(block, key, root, users=1, heat=Heat(1.0, now))
        self._by_key[key] = self._by_block[block] = shared

    # Idle blocks.

    @property
    def num_idle(self) -> int:
        """Count the blocks that are not in use."""
        return len(self._idle) + len(self._orphans)

    @property
    def num_blocks(self) -> int:
        """Count all shared blocks."""
        return len(self._by_block)

    def least_value(self, now: float) -> float | None:
        """Return the value of the block that goes next; None if all are in use."""
        if self._orphans:
            return 0.0
        shared = next(iter(self._idle), None)
        if shared is None:
            return None
        seconds = self._block_tokens * self._seconds_per_token
        return value(self._chance(shared, now), seconds, 1)

    def _chance(self, shared: SharedBlock, now: float) -> float:
        """Probability of a use soon. That a block was computed says little: where no prompt begins
        like another, none comes back. So until its first other user a block is as likely to find
        one as blocks were lately."""
        chance = shared.heat.chance(now)
        if shared.was_shared:
            return chance
        found = (self._first_shared.count(now) + 1.0) / (self._computed.count(now) + 1.0)
        return chance * min(1.0, found)

    def evict_one(self) -> None:
        """Give one idle block back to the pool: of an adapter that is not resident if there is one,
        else the longest unused."""
        self._forget(next(iter(self._orphans or self._idle)))
        self.num_evictions += 1

    def orphan(self, digest: str) -> None:
        """The adapter `digest` has left the pool: idle blocks computed with it go first."""
        for shared in self._idle_by_root.pop(self._root(digest), ()):
            del self._idle[shared]
            self._orphans[shared] = None

    def drop(self, digest: str) -> None:
        """The adapter `digest` cannot be asked for any more: free its idle blocks now."""
        root = self._root(digest)
        orphans = [each for each in self._orphans if each.root == root]
        for shared in [*orphans, *self._idle_by_root.get(root, ())]:
            self._forget(shared)

    def _root(self, digest: str) -> bytes:
        """The root of sequences of one adapter, at weight 1."""
        return root_of_digests(((digest, 1.0),), self._base)

    def _forget(self, shared: SharedBlock) -> None:
        self._not_idle(shared)
        del self._by_key[shared.key], self._by_block[shared.block]
        self._pool.give([shared.block], OWNER)

    def _not_idle(self, shared: SharedBlock) -> None:
        """It is in use again, or goes."""
        self._orphans.pop(shared, None)
        if shared in self._idle:
            del self._idle[shared]
            same = self._idle_by_root[shared.root]
            del same[shared]
            if not same:
                del self._idle_by_root[shared.root]

    def num_private(self, running: Iterable[Sequence]) -> int:
        """Count the blocks of `running` sequences that are not shared."""
        private = {block for sequence in running for block in sequence.blocks}
        return len(private - self._by_block.keys())

    def audit(self, running: Iterable[Sequence]) -> None:
        """Check that users are counted right, idle blocks marked so, and names and blocks match."""
        users: dict[int, int] = {}
        for sequence in running:
            for block in sequence.blocks:
                if block in self._by_block:
                    users[block] = users.get(block, 0) + 1
                else:
                    assert self._pool.owner_of(block) is sequence, "a block of somebody else"
        assert self._pool.num_owned(OWNER) == len(self._by_block) == len(self._by_key)
        assert not self._idle.keys() & self._orphans.keys()
        by_root = [block for same in self._idle_by_root.values() for block in same]
        assert len(by_root) == len(self._idle)
        assert self._idle.keys() == set(by_root)
        for block, shared in self._by_block.items():
            assert shared.users == users.get(block, 0), f"users of block {block} are miscounted"
            is_idle = shared in self._idle or shared in self._orphans
            assert is_idle == (not shared.users)
            assert self._by_key[shared.key] is shared
