"""Compare what the server answers with what the trained model answers; `gossamer verify`'s work."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from gossamer.basemodel.quantize import Quantization
from gossamer.errors import MissingExtraError, UnsupportedAdapterError, UsageError
from gossamer.settings import Settings

if TYPE_CHECKING:
    from gossamer.llm import Completion
    from gossamer.verification.references import ReferenceAnswer

TOP = 20
"""Most likely tokens of each step whose log-probabilities are compared."""

PROMPTS = (
    "The capital of France is",
    "Tom has 3 apples and buys 4 more. How many apples does he have now? Answer:",
    "Hi",
    "Write one sentence about the sea, then one about the mountains, and end with a question. "
    "Do not use the letter z, and do not repeat a word more than twice.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDifference:
    """The first token at which an answer parts from its reference; numbers count from 1."""

    answer: int
    token: int
    ours: str
    theirs: str
    """Texts of the two tokens; of the reference's, its number if it is none of our likeliest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How one adapter compares with one reference."""

    adapter: str
    kind: str
    reference: str
    """"merged", "PEFT" or "transformers" (the base alone)."""
    equal_tokens: int
    """Tokens of all answers up to each one's first difference."""
    tokens: int
    """Tokens of all answers."""
    largest_difference: float
    """Largest difference of a log-probability, over steps with the same context and the 20
    likeliest tokens."""
    ties: int
    """Answers that part where the reference holds two tokens for equally likely."""
    passed: bool
    problem: str | None = None
    """The reason why there is nothing to compare."""
    first_difference: TokenDifference | None = None
    """Where the first answer that is not equal parts from its reference."""


class VerifySettings(Settings):
    """What adapters are asked, and how much their answers may differ from the references'."""

    prompts: tuple[str, ...] = ()
    """Texts that the base model and every adapter continue; unset: four unlike ones."""
    new_tokens: int = Field(default=32, ge=1)
    """New tokens of each answer."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference of a log-probability that counts as rounding."""
    memory_gib: float | None = Field(default=None, gt=0)
    """GiB of the server's pool; unset: the server's own default."""
    adapter_rows: Literal["as-saved", "base", "int8"] = "as-saved"
    """How the server keeps low-rank rows."""
    device: str = "cpu"
    """Where the server computes: auto, cpu, cuda or cuda:N; the references are computed on the
    CPU, in float32."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Number format of the server's weights, keys and values. All but float32 differ from the
    references by more than rounding of that format, so give a larger tolerance with them."""
    backend: str = "auto"
    """The server's kernels: auto, cpu, reference or triton."""
    quantization: Quantization = "none"
    """How the base model is quantised when it is loaded, by the server and the references alike."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Processes among which the server divides the model."""


def verify(
    base: Path, adapters: Sequence[Path], settings: VerifySettings, tell: Callable[[str], None]
) -> list[Verdict]:
    """Serve all adapters and the base in one batch, then ask each reference the same prompts.

    Raises `AdapterError` for an adapter that cannot be served, `BaseModelError` for the base, and
    `MissingExtraError` for an adapter that PEFT alone could judge where PEFT is not installed.
    """
    from gossamer.adapters.inspect import inspect

    kinds = [inspect(folder).kind for folder in adapters]
    names = _names(adapters)
    tell(f"serving {len(names)} adapters and the base in one batch")
    prompts, served = _serve(base, dict(zip(names, adapters, strict=True)), settings)
    verdicts = _against_base(base, prompts, served[None], settings, tell)
    for name, folder, kind in zip(names, adapters, kinds, strict=True):
        found: list[Verdict] = []
        for reference, load in _references(base, folder, settings.quantization).items():
            tell(f"{name}: {reference}")
            found += _judge(name, kind, reference, load, prompts, served[name], settings)
        if not _has_peft() and all(verdict.problem for verdict in found):
            raise MissingExtraError.of(f"{name}, which cannot be merged,", "PEFT", "tune")
        verdicts += found
    if not _has_peft():
        tell("PEFT is not installed: compared with merged models only")
    return verdicts


def _has_peft() -> bool:
    return find_spec("peft") is not None


def _against_base(
    base: Path,
    prompts: Sequence[Sequence[int]],
    served: "Sequence[Completion]",
    settings: VerifySettings,
    tell: Callable[[str], None],
) -> list[Verdict]:
    from gossamer.verification.references import base_model

    tell("base: transformers")
    return _judge(
        "(base)", "-", "transformers", partial(base_model, base, settings.quantization),
        prompts, served, settings,
    )  # fmt: skip


def _references(base: Path, adapter: Path, quantization: str) -> dict[str, Callable[[], Any]]:
    from gossamer.verification.references import merged_model, peft_model

    found: dict[str, Callable[[], Any]] = {
        "merged": partial(merged_model, base, adapter, quantization)
    }
    if _has_peft():
        found["PEFT"] = partial(peft_model, base, adapter, quantization)
    return found


def _judge(
    name: str,
    kind: str,
    reference: str,
    load: Callable[[], Any],
    prompts: Sequence[Sequence[int]],
    served: "Sequence[Completion]",
    settings: VerifySettings,
) -> list[Verdict]:
    """One verdict; one without figures where the reference cannot hold this adapter."""
    from gossamer.verification.references import greedy

    try:
        answers = greedy(load(), prompts, settings.new_tokens)
    except UnsupportedAdapterError as error:
        return [
            Verdict(
                adapter=name, kind=kind, reference=reference, equal_tokens=0, tokens=0,
                largest_difference=0.0, ties=0, passed=True, problem=str(error),
            )
        ]  # fmt: skip
    parts = [
        compare(ours, theirs, settings.tolerance)
        for ours, theirs in zip(served, answers, strict=True)
    ]
    largest = max(part.largest_difference for part in parts)
    found = zip(parts, served, answers, strict=True)
    first = next(
        (
            _difference(number, part.equal_tokens, ours, theirs)
            for number, (part, ours, theirs) in enumerate(found, start=1)
            if part.equal_tokens < settings.new_tokens
        ),
        None,
    )
    return [
        Verdict(
            adapter=name,
            kind=kind,
            reference=reference,
            equal_tokens=sum(part.equal_tokens for part in parts),
            tokens=settings.new_tokens * len(parts),
            largest_difference=largest,
            ties=sum(part.is_tie for part in parts),
            passed=largest <= settings.tolerance
            and all(part.is_tie or part.equal_tokens == settings.new_tokens for part in parts),
            first_difference=first,
        )
    ]


def _difference(
    answer: int, place: int, ours: "Completion", theirs: "ReferenceAnswer"
) -> TokenDifference:
    assert ours.logprobs is not None
    chosen, expected = ours.logprobs[place], theirs.token_ids[place]
    texts = {token: text for token, text, _ in chosen.top}
    return TokenDifference(
        answer=answer,
        token=place + 1,
        ours=chosen.text,
        theirs=texts.get(expected, f"token {expected}"),
    )


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """How one answer compares with one reference answer."""

    equal_tokens: int
    largest_difference: float
    is_tie: bool


def compare(ours: "Completion", theirs: "ReferenceAnswer", tolerance: float) -> AnswerComparison:
    """Compare tokens until the two part, and log-probabilities while the context is the same."""
    assert ours.logprobs is not None
    equal, largest = 0, 0.0
    for step, chosen in enumerate(ours.logprobs):
        expected = theirs.logprobs[step]
        for token, _, logprob in (*chosen.top, (chosen.token_id, "", chosen.logprob)):
            largest = max(largest, abs(logprob - float(expected[token])))
        if chosen.token_id != theirs.token_ids[step]:
            margin = float(expected[theirs.token_ids[step]] - expected[chosen.token_id])
            return AnswerComparison(equal, largest, margin <= tolerance)
        equal += 1
    return AnswerComparison(equal, largest, False)


def _serve(
    base: Path, adapters: dict[str, Path], settings: VerifySettings
) -> "tuple[list[list[int]], dict[str | None, list[Completion]]]":
    """Token ids of the prompts, and the answers by adapter (None: the base)."""
    from gossamer.llm import LLM
    from gossamer.serving.core.messages import SamplingParams

    sampling = SamplingParams(
        max_tokens=settings.new_tokens, temperature=0, ignore_eos=True, logprobs=TOP
    )
    names: list[str | None] = [None, *adapters]
    with (
        _in_one_folder(adapters) as folder,
        LLM(
            str(base),
            adapters=folder,
            memory_gib=settings.memory_gib,
            adapter_rows=settings.adapter_rows,
            device=settings.device,
            dtype=settings.dtype,
            backend=settings.backend,
            quantization=settings.quantization,
            tensor_parallel=settings.tensor_parallel,
        ) as llm,
    ):
        prompts = [
            list(llm.engine.tokenizer(text).input_ids) for text in settings.prompts or PROMPTS
        ]
        asked = [(prompt, name) for prompt in prompts for name in names]
        completions = llm.generate(
            [prompt for prompt, _ in asked],
            adapter=[name for _, name in asked],
            sampling=sampling,
        )
    served: dict[str | None, list[Completion]] = {name: [] for name in names}
    for (_, name), completion in zip(asked, completions, strict=True):
        served[name].append(completion)
    return prompts, served


@contextmanager
def _in_one_folder(adapters: dict[str, Path]) -> Iterator[Path]:
    """Adapters from anywhere as neighbours, as the server expects them."""
    with tempfile.TemporaryDirectory(prefix="gossamer-verify-") as scratch:
        for name, folder in adapters.items():
            (Path(scratch) / name).symlink_to(folder.resolve(), target_is_directory=True)
        yield Path(scratch)


def _names(adapters: Sequence[Path]) -> list[str]:
    """The folders' own names; a number is added to one that occurs again."""
    if not adapters:
        raise UsageError("name at least one adapter folder")
    names: list[str] = []
    for folder in adapters:
        name = folder.resolve().name
        taken = sum(other == name or other.startswith(f"{name}~") for other in names)
        names.append(f"{name}~{taken + 1}" if taken else name)
    return names
