"""Will it fit? Admission counts future key/value blocks and adapter blocks in one currency."""

from collections.abc import Iterable, Sequence


def blocks_for(num_tokens: int, block_tokens: int) -> int:
    """Blocks that hold the keys and values of `num_tokens`."""
    return -(-num_tokens // block_tokens)


def peak_blocks(sequences: Iterable[tuple[int, int]], block_tokens: int) -> int:
    """Most blocks that sequences (tokens held, tokens to come) will hold at one time.

    All grow by a token a step and leave when done, so the peak comes when one is about to leave:
    with the sequences in falling order of tokens to come, when the i-th leaves, those before it
    still run, each `to_come[i]` tokens longer (S-LoRA, arXiv 2311.03285, admission test of its
    released scheduler; here with each sequence rounded up to blocks).
    """
    ordered: Sequence[tuple[int, int]] = sorted(sequences, key=lambda pair: -pair[1])
    peak = held_sum = 0
    for count, (held, to_come) in enumerate(ordered, start=1):
        held_sum += held
        # Each sequence wastes less than one block of its own.
        tokens = held_sum + count * (to_come + block_tokens - 1)
        peak = max(peak, tokens // block_tokens)
    return peak
