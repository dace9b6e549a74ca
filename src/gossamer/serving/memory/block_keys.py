"""Names of blocks of keys and values: a hash of everything that they depend on."""

from array import array
from collections.abc import Iterable
from hashlib import blake2b

from gossamer.adapters.edit_positions import positions_independent_of_end
from gossamer.serving.blend import AnyAdapter
from gossamer.serving.sequence import Sequence

KEY_BYTES = 16


def root_of(adapter: AnyAdapter | None, base: bytes = b"") -> bytes | None:
    """What the first block of a sequence has as its parent: the model and all that changes it.

    Adapters count by digest (weights and config, scale included), never by name: new weights under
    an old name find nothing of the former ones. None for an adapter that was not read yet.
    """
    used = []
    for entry, weight in adapter.uses if adapter is not None else ():
        if entry.digest is None:
            return None
        used.append((entry.digest, weight))
    return root_of_digests(used, base)


def root_of_digests(used: Iterable[tuple[str, float]], base: bytes) -> bytes:
    """The same, for adapters given as digest and weight."""
    hasher = blake2b(base, digest_size=KEY_BYTES)
    for digest, weight in used:
        hasher.update(f"\n{digest} {weight!r}".encode())
    return hasher.digest()


def of_tenant(root: bytes, tenant: str) -> bytes:
    """The parent of a tenant's own first blocks: nobody else's tokens lead to the same names."""
    # `person` keeps these hashes apart from those of blocks.
    return blake2b(
        root + tenant.encode(errors="surrogatepass"), digest_size=KEY_BYTES, person=b"tenant"
    ).digest()


def extend_keys(sequence: Sequence, root: bytes, block_tokens: int, count: int) -> list[bytes]:
    """Names of the first `count` blocks of `sequence`: hash(name of the block before, tokens).

    `root` is the parent of the first one.
    """
    if sequence.key_root != root:
        sequence.key_root, sequence.keys = root, []
    keys = sequence.keys
    while len(keys) < count:
        first = len(keys) * block_tokens
        tokens = array("q", sequence.token_ids[first : first + block_tokens])
        parent = keys[-1] if keys else root
        keys.append(blake2b(parent + tokens.tobytes(), digest_size=KEY_BYTES).digest())
    return keys


def num_shareable(sequence: Sequence) -> int | None:
    """Leading tokens whose keys and values depend on nothing but themselves; None: all.

    Interventions edit the last positions of a prompt: what follows cannot be shared with a prompt
    that goes on there.
    """
    limits = [
        positions_independent_of_end(sequence.num_prompt, *entry.edited)
        for entry in (sequence.adapter.parts if sequence.adapter is not None else ())
        if entry.edited is not None
    ]
    return min(limits, default=None)
