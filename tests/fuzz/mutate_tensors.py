"""Hostile changes of an adapter's tensors: consistent ones, and lies of the header or the bytes."""

import random
import struct
from collections.abc import Callable

from drafts import ITEM_BYTES, Draft, Piece, lay_out
from mutate_json import TEXTS, Pairs, Raw, mutate, nested

INTEGERS = [
    -1,
    0,
    1,
    191,
    2**31 - 192,
    2**31 - 1,
    2**31,
    2**32,
    2**62,
    2**63 - 192,
    2**63 - 1,
    -(2**63),
]
# Row, column, height, width: sums and products that overflow, and blocks just beyond the edge.
PLACES = [
    (2**63 - 192, 0, 192, 1), (0, 2**63 - 1, 1, 1), (2**62, 0, 2**62, 4), (0, 0, 2**32, 2**32),
    (47, 0, 1, 1),
    (0, 0, 0, 5), (2**31 - 1, 0, 1, 1), (2**32, 0, 1, 1), (0, 0, 2**63 - 1, 2), (-1, 0, 1, 1),
    (32, 40, 1, 9),
]  # fmt: skip
FLOATS = [
    b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f", b"\xff\xff\x7f\xff",
    b"\1\0\0\0", b"\0\0\0\x80", b"\0\0\x7f\x43",
]  # fmt: skip
NAMES = [
    "base_model.model.", "base_model.model..lora_A.weight", "prompt_embeddings", "lora_A.weight",
    "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight",
    "base_model.model.lm_head.lora_A.weight",
    "base_model.model.model.layers.99999999999999999999.reft_rotate",
    "base_model.model.layers.٣.reft_bias",
    "base_model.model.model.embed_tokens.lora_embedding_A",
    "base_model.model.model.layers.0.reft_last_rotate",
    "base_model.model.model.layers.00.self_attn.v_proj.smt_blocks", "x" * 70_000, *TEXTS,
]  # fmt: skip


def change_tensor(draft: Draft, rng: random.Random) -> str:
    """Change one tensor so that header and bytes still agree; returns what was done."""
    if not draft.pieces:
        draft.pieces.append(Piece("x", "F32", [1], b"\0\0\0\0"))
        return "a tensor from nowhere"
    piece = rng.choice(draft.pieces)
    change = rng.choices(list(_CHANGES), list(_CHANGES.values()))[0]
    return f"{change.__name__[1:]} of {piece.name[:70]!r}{change(draft, piece, rng)}"


def _values(draft: Draft, piece: Piece, rng: random.Random) -> str:
    size = ITEM_BYTES[piece.dtype]
    if piece.dtype.startswith(("I", "U")):
        value = rng.choice(INTEGERS) % 2 ** (8 * size)
        element = value.to_bytes(size, "little")
    else:
        element = rng.choice([rng.choice(FLOATS)[-size:].rjust(size, b"\0"), rng.randbytes(size)])
    if rng.random() < 0.3:
        piece.data = element * piece.count
    elif piece.data:
        at = size * rng.randrange(piece.count)
        piece.data = piece.data[:at] + element + piece.data[at + size :]
    return f": {element.hex()}"


def _noise(draft: Draft, piece: Piece, rng: random.Random) -> str:
    piece.data = rng.randbytes(len(piece.data))
    return ""


def _places(draft: Draft, piece: Piece, rng: random.Random) -> str:
    """Blocks of SMT at impossible places."""
    blocks = [each for each in draft.pieces if each.name.endswith("smt_blocks")]
    if not blocks:
        return _values(draft, piece, rng)
    piece = rng.choice(blocks)
    place = rng.choice(PLACES)
    numbers = [n for _ in range(rng.choice([1, 3])) for n in place]
    piece.dtype, piece.shape = "I64", [len(numbers) // 4, 4]
    piece.data = b"".join((n % 2**64).to_bytes(8, "little") for n in numbers)
    wanted = piece.name.replace("blocks", "values")
    values = next((each for each in draft.pieces if each.name == wanted), piece)
    count = sum(numbers[2::4][i] * numbers[3::4][i] for i in range(len(numbers) // 4)) % 2**64
    if values is not piece and count < 10_000:
        values.data = values.resized([count]).data
        values.shape = [count]
    return f": {place}"


def _dtype(draft: Draft, piece: Piece, rng: random.Random) -> str:
    piece.dtype = rng.choice(list(ITEM_BYTES))
    piece.data = piece.resized(piece.shape).data
    return f": {piece.dtype}"


def _shape(draft: Draft, piece: Piece, rng: random.Random) -> str:
    shape = list(piece.shape)
    pick = rng.randrange(6)
    if pick == 0:
        shape.reverse()
    elif pick == 1:
        shape.insert(rng.randrange(len(shape) + 1), rng.choice([0, 1, 2]))
    elif pick == 2 and shape:
        shape[rng.randrange(len(shape))] = rng.choice([0, 1, 2, 3, 48, 100, 1000])
    elif pick == 3:
        shape = [piece.count]
    elif pick == 4:
        shape = [1] * rng.choice([5, 9, 70]) + shape
    else:
        shape = []
    new = piece.resized(shape)
    piece.shape, piece.data = new.shape, new.data
    return f": {str(shape)[:60]}"


def _longer(draft: Draft, piece: Piece, rng: random.Random) -> str:
    """An extent grows in every tensor and in the config's numbers: often allowed."""
    old = piece.shape[0] if piece.shape else 1
    new = rng.choice([1, 2, old * 2, 64, 200, 700])
    for each in draft.pieces:
        shape = [new if extent == old else extent for extent in each.shape]
        new_piece = each.resized(shape)
        each.shape, each.data = new_piece.shape, new_piece.data
    for pair in draft.config:
        if type(pair[1]) is int and pair[1] == old:
            pair[1] = new
    return f": every {old} is now {new}"


def _name(draft: Draft, piece: Piece, rng: random.Random) -> str:
    other = rng.choice(draft.pieces).name
    parts = piece.name.split(".")
    parts[rng.randrange(len(parts))] = rng.choice(
        ["0", "1", "q_proj", "weight", "lora_B", "7", "", "model"]
    )
    piece.name = rng.choice([other, ".".join(parts), rng.choice(NAMES)])
    return f": {piece.name[:60]!r}"


def _removal(draft: Draft, piece: Piece, rng: random.Random) -> str:
    draft.pieces.remove(piece)
    return ""


def _copy(draft: Draft, piece: Piece, rng: random.Random) -> str:
    times = rng.choice([1, 1, 3, 3000])
    made = [Piece(f"{piece.name}{n or ''}", piece.dtype, [0], b"") for n in range(times)]
    draft.pieces += (
        made if times > 1 else [Piece(rng.choice(NAMES), piece.dtype, piece.shape, piece.data)]
    )
    return f": {times}"


def _exchange(draft: Draft, piece: Piece, rng: random.Random) -> str:
    other = rng.choice(draft.pieces)
    piece.name, other.name = other.name, piece.name
    return f" and {other.name[:60]!r}"


def _metadata(draft: Draft, piece: Piece, rng: random.Random) -> str:
    draft.metadata[rng.choice(["gossamer_base", "format", *TEXTS])] = rng.choice([*TEXTS, "0" * 64])
    return ""


_CHANGES: dict[Callable[[Draft, Piece, random.Random], str], int] = {
    _values: 5, _noise: 1, _places: 3, _dtype: 2, _shape: 3, _longer: 3, _name: 2, _removal: 1,
    _copy: 1,
    _exchange: 1, _metadata: 1,
}  # fmt: skip


def lie(draft: Draft, rng: random.Random) -> tuple[bytes, str]:
    """A weights file whose header contradicts itself or its data, and how."""
    header, data = draft.header(), draft.data()
    entries = [entry for name, entry in header if name != "__metadata__"]
    pick = rng.randrange(4)
    if pick == 0 or not entries:
        return lay_out(header, data), "header: " + mutate(
            header, rng, names=["__metadata__", "shape"]
        )
    entry = rng.choice(entries)
    if pick == 1:
        shape = rng.choice(
            [[0, 2**63], [2**32, 2**32], [2**64 // 4, 0], [10**18] * 50_000, [1] * 100_000, [-1,
            -4],
             [True], [1.0], ["4"], [None], [[4]], "44", Raw("9" * 4000), nested(rng, 3000), []]
        )  # fmt: skip
        entry[1][1] = shape
        return lay_out(header, data), f"header: a shape of {str(shape)[:40]}"
    if pick == 2:
        size = len(data)
        offsets = rng.choice(
            [[0, size], [size, 0], [0, 2**63], [-1, 3], [0, 0], [size, size], [0], [0, 1, 2],
            [0.0, 4.0],
             [2**64, 2**64 + 4], [False, True], {}, None]
        )  # fmt: skip
        entry[2][1] = offsets
        return lay_out(header, data), f"header: offsets {offsets}"
    header = Pairs([*header, *([f"empty{n}", entry] for n in range(rng.choice([1, 2, 5000])))])
    return lay_out(header, data), f"header: {len(header)} entries"


def damage(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A damaged file, and how."""
    at = rng.randrange(max(1, len(content)))
    head = rng.randrange(min(len(content), 400) or 1)
    return rng.choice(
        [
            (lambda: (content[:at], f"cut at {at}")),
            (lambda: (content[:head], f"cut at {head}")),
            (
                lambda: (
                    content + rng.randbytes(rng.choice([1, 8, 4096])),
                    "something behind its end",
                )
            ),
            (
                lambda: (
                    content[:at] + rng.randbytes(1) + content[at + 1 :],
                    f"another byte at {at}",
                )
            ),
            (
                lambda: (
                    content[:head] + rng.randbytes(1) + content[head + 1 :],
                    f"another byte at {head}",
                )
            ),
            (lambda: (_length(rng) + content[8:], "another length of the header")),
            (lambda: (b"", "empty")),
            (lambda: (rng.randbytes(at), "noise")),
            (
                lambda: (
                    content[:8] + content[8:].replace(b"F32", b"\xff\xfe\xfd"),
                    "bytes that are no text",
                )
            ),
            (lambda: (content[:at] + content[at // 2 :], "a part of it twice")),
        ]
    )()


def _length(rng: random.Random) -> bytes:
    return struct.pack("<Q", rng.choice([0, 1, 2, 7, 99_999_999, 2**31, 2**32, 2**63, 2**64 - 1]))
