"""What SLoRA sends between a client and the server, in bytes; float32 values throughout."""

from collections.abc import Sequence

from gossamer.methods.common.sparse_delta.mask import num_entries

SEED_BYTES = 8
"""The mask, once: everyone draws it from the seed."""

Shapes = Sequence[tuple[int, int]]
"""[h_out, h_in] of each adapted matrix."""


def bitmap_bytes(shapes: Shapes) -> int:
    """The mask, once, where the seed is not shared: a bit per weight."""
    return -(-sum(rows * columns for rows, columns in shapes) // 8)


def sparse_round_bytes(shapes: Shapes, density: float, *, head: int = 0) -> int:
    """One round of stage 1, one client, one way: the masked values, and a head of that many
    parameters if one is trained."""
    return 4 * (sum(num_entries(shape, density) for shape in shapes) + head)


def low_rank_round_bytes(shapes: Shapes, rank: int, *, head: int = 0) -> int:
    """One round of stage 2, one client, one way: A and B, and the head."""
    return 4 * (rank * sum(rows + columns for rows, columns in shapes) + head)


def total_bytes(
    shapes: Shapes, *, sparse_rounds: int, rounds: int, density: float, rank: int, head: int = 0
) -> int:
    """All rounds of one client, both ways; between the stages nothing is sent."""
    sparse = sparse_rounds * sparse_round_bytes(shapes, density, head=head)
    return 2 * (sparse + rounds * low_rank_round_bytes(shapes, rank, head=head))
