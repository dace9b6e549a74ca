"""Feed the readers of adapters with bytes that reach ever more of their code (atheris, libFuzzer).

    make fuzz FUZZ_SECONDS=600
    python tests/fuzz/coverage_guided.py PATH        # an input that was found, once more

An input is one byte that picks a good adapter and which of its parts the rest takes the place of:
the config, the header of the weights, or the whole weights file. Any exception that is no
`GossamerError` is a find, and so is an input that takes seconds or much memory; each is left in
`build/fuzz`. Options of libFuzzer may be given, as `-max_total_time=60`.
"""

import contextlib
import json
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "helpers"), str(ROOT / "tests" / "fuzz")]

import atheris  # noqa: E402
import torch  # noqa: E402

with atheris.instrument_imports(include=["gossamer.adapters"], enable_loader_override=False):
    from gossamer.adapters.load import load_adapter

from drafts import CONFIG, WEIGHTS, Draft, lay_out, read_draft  # noqa: E402
from kinds_case import NAMES, Kinds  # noqa: E402
from mutate_adapter import FIELDS, PATTERNS  # noqa: E402
from mutate_json import mutate, thaw, to_text  # noqa: E402

from gossamer.errors import GossamerError  # noqa: E402

PARTS = 3
MOST_SECONDS = 5
MOST_MIB = 3000
LONGEST = 1 << 15


def main() -> None:
    """Make the seeds of the corpus, then run until the time is over or something is found."""
    torch.set_num_threads(1)
    found = ROOT / "build" / "fuzz"
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        kinds = Kinds(Path(scratch))
        drafts = [read_draft(kinds.adapters / name) for name in NAMES]
        goods = [draft for draft in drafts if len(draft.data()) < LONGEST]
        target = Target(goods, Path(scratch) / "adapter")
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for number, content in enumerate(target.seeds()):
            (corpus / str(number)).write_bytes(content)
        words = Path(scratch) / "words"
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in _words(goods)))
        options = [
            f"-timeout={MOST_SECONDS}",
            f"-rss_limit_mb={MOST_MIB}",
            f"-max_len={LONGEST}",
            f"-dict={words}",
            f"-artifact_prefix={found}/",
        ]
        given = sys.argv[1:]
        inputs = [] if any(not each.startswith("-") for each in given) else [str(corpus)]
        arguments = [sys.argv[0], *options, *given, *inputs]
        atheris.Setup(arguments, target, custom_mutator=change)
        atheris.Fuzz()


def change(content: bytes, most: int, seed: int) -> bytes:
    """Another input: changed as JSON where it is some, else as bytes."""
    rng = random.Random(seed)
    if rng.random() < 0.6:
        with contextlib.suppress(ValueError, RecursionError):
            tree = thaw(json.loads(content[1:]))
            if isinstance(tree, list):
                mutate(tree, rng, names=list(FIELDS), size=2000)
                return content[:1] + to_text(tree).encode()[: most - 1]
    return atheris.Mutate(content, most)


class Target:
    """Reads an adapter of which one part is the input."""

    def __init__(self, goods: list[Draft], folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._goods = [
            (to_text(g.config).encode(), to_text(g.header()).encode(), g.data()) for g in goods
        ]

    def seeds(self) -> list[bytes]:
        """The good adapters as inputs."""
        found = []
        for number, (config, header, data) in enumerate(self._goods):
            for part, content in enumerate((config, header, lay_out(header, data))):
                if len(content) < LONGEST:
                    found.append(bytes([number * PARTS + part]) + content)
        return found

    def __call__(self, content: bytes) -> None:
        """Read it; anything but a `GossamerError` ends the run."""
        if not content:
            return
        number, part = divmod(content[0] % (PARTS * len(self._goods)), PARTS)
        config, header, data = self._goods[number]
        rest = content[1:]
        if part == 0:
            config = rest
        weights = rest if part == 2 else lay_out(rest if part == 1 else header, data)
        (self._folder / CONFIG).write_bytes(config)
        (self._folder / WEIGHTS).write_bytes(weights)
        with contextlib.suppress(GossamerError):
            load_adapter(self._folder)


def _words(goods: list[Draft]) -> set[str]:
    """What the readers look for."""
    names = {name for good in goods for name, _ in good.config}
    tensors = {piece.name.rsplit(".", 1)[-1] for good in goods for piece in good.pieces}
    others = {
        "__metadata__",
        "dtype",
        "shape",
        "data_offsets",
        "F32",
        "BF16",
        "I64",
        "gossamer_base",
    }
    patterns = {pattern for pattern in PATTERNS if 0 < len(pattern) < 40 and pattern.isascii()}
    return names | tensors | others | patterns | set(FIELDS)


def _escaped(word: str) -> str:
    return "".join(c if c.isalnum() else f"\\x{ord(c):02x}" for c in word)


if __name__ == "__main__":
    main()
