"""The work that every implementation gets: a few tokens for each of many adapters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Linear layers that read the same input."""

    name: str
    h_in: int
    widths: tuple[int, ...]


LLAMA_3_8B = (
    Group("qkv", 4096, (4096, 1024, 1024)),
    Group("o", 4096, (4096,)),
    Group("gate_up", 4096, (14336, 14336)),
    Group("down", 14336, (4096,)),
)
"""The groups of a decoder layer."""

TOY = (Group("qkv", 1024, (64, 32, 32)), Group("down", 2048, (64,)))
"""Groups on which a program of the interpreter takes milliseconds."""


@dataclass(frozen=True)
class Work:
    """A step: every adapter has the same number of tokens, one after the other."""

    label: str
    ranks: tuple[int, ...]
    """Of each adapter."""
    max_rank: int
    """What the server was started for: peers make room for it."""
    tokens_each: int = 1
    planned: int = 64
    """Tokens for which tiles are chosen, where that depends on them."""

    @property
    def tokens(self) -> int:
        """Of the step."""
        return self.tokens_each * len(self.ranks)

    @property
    def adapter_of(self) -> list[int]:
        """The index of each token's adapter."""
        return [slot for slot in range(len(self.ranks)) for _ in range(self.tokens_each)]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An implementation's arrays for one group, filled, and how it is launched."""

    launch: Callable[[], object]
    y: Tensor
    """What the launch adds to, [tokens, sum of widths]."""
    buffers: Mapping[str, Sequence[Tensor]]
    """Arrays by what they hold: "rows" of adapters, "x", "y", "scratch", "metadata"."""
    scratch_of: Callable[[], Sequence[Tensor]] = field(default=tuple)
    """Scratch that only a launch makes."""
    parts: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    """Its launches apart where they can be: "shrink", and "expand" of what that has left."""


class Factors:
    """The adapters of a step, the same for every implementation."""

    def __init__(
        self, group: Group, work: Work, dtype: torch.dtype, device: str, seed: int = 0
    ) -> None:
        """dtype: of x, y and the rows; on "meta" nothing is drawn."""
        self.group, self.work, self.dtype, self.device = group, work, dtype, device
        is_real = device != "meta"
        generator = torch.Generator(device if is_real else "cpu").manual_seed(seed)

        def draw(*shape: int, size: float) -> Tensor:
            if not is_real:
                return torch.empty(*shape, dtype=dtype, device=device)
            values = torch.randn(*shape, generator=generator, device=device)
            # Bits that float16 and bfloat16 both have, so that all get the same numbers.
            return (values * size).to(torch.bfloat16).to(dtype)

        self.x = draw(work.tokens, group.h_in, size=group.h_in**-0.5)
        self.y = draw(work.tokens, sum(group.widths), size=1.0)
        self.a = [[draw(r, group.h_in, size=1.0) for _ in group.widths] for r in work.ranks]
        """Of each adapter and module, [rank, h_in]."""
        self.b = [[draw(width, r, size=r**-0.5) for width in group.widths] for r in work.ranks]
        """Of each adapter and module, [h_out, rank]."""

    @property
    def least_bytes(self) -> int:
        """Bytes of the rows of all adapters: what must be read at least."""
        return sum(self.part_bytes.values())

    @property
    def part_bytes(self) -> dict[str, int]:
        """The same of the rows that "shrink" reads, and of those of "expand"."""
        numbers = {
            "shrink": self.group.h_in * len(self.group.widths), "expand": sum(self.group.widths),
        }  # fmt: skip
        size = self.dtype.itemsize * sum(self.work.ranks)
        return {part: size * number for part, number in numbers.items()}

    def expected(self) -> Tensor:
        """Return y after the operation, in float64."""
        result = self.y.double()
        for token, slot in enumerate(self.work.adapter_of):
            x = self.x[token].double()
            pairs = zip(self.a[slot], self.b[slot], strict=True)
            result[token] += torch.cat([b.double() @ (a.double() @ x) for a, b in pairs])
        return result

    def error(self, y: Tensor) -> float:
        """Return the error of `y` relative to the size of what is added."""
        expected = self.expected()
        return float((y.double() - expected).norm() / (expected - self.y.double()).norm())
