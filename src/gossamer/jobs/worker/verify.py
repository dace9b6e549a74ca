"""Work of the kind `verify`: the proof that a result is served as it was trained."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.jobs.queue.needs import verification_pool_gib, weights_bytes
from gossamer.jobs.store.attempts import JobOutcome
from gossamer.jobs.worker.task import KindOfWork

if TYPE_CHECKING:
    from gossamer.verification.verify import Verdict


class VerifyWork(KindOfWork):
    """Does what `gossamer verify` does, on the processor, in float32."""

    def carry_out(self) -> JobOutcome:
        from gossamer.verification.verify import VerifySettings, verify

        wanted = self.task.record.resolved["verify"]
        adapter = self.task.model_folder(wanted["model"])
        listener = self.task.listener()
        listener.announce(None, 0)
        settings = VerifySettings(
            prompts=tuple(wanted["prompts"]),
            new_tokens=wanted["new_tokens"],
            memory_gib=verification_pool_gib(weights_bytes(adapter)),
        )
        verdicts = verify(Path(wanted["base"]), [adapter], settings, listener.note)
        words = told(verdicts)
        listener.note(words)
        passed = all(verdict.passed for verdict in verdicts)
        shown = [asdict(verdict) for verdict in verdicts]
        return JobOutcome(result={"passed": passed, "words": words, "verdicts": shown})


def told(verdicts: "Sequence[Verdict]") -> str:
    """Say in sentences how served answers compare with those of the references."""
    return " ".join(_sentence(verdict) for verdict in verdicts)


def _sentence(verdict: "Verdict") -> str:
    who = "The base model" if verdict.kind == "-" else "The result"
    reference = {"merged": "the merged model", "PEFT": "PEFT", "transformers": "transformers"}[
        verdict.reference
    ]
    if verdict.problem is not None:
        return f"Not compared with {reference}: {verdict.problem}."
    largest = f"log-probabilities differ by {verdict.largest_difference:.1e} at most"
    if verdict.equal_tokens == verdict.tokens:
        return f"{who}: all {verdict.tokens} tokens are those of {reference}; {largest}."
    first = verdict.first_difference
    assert first is not None
    tie = ", which holds both for equally likely" if verdict.passed else ""
    return (
        f"{who}: {verdict.equal_tokens} of {verdict.tokens} tokens are those of {reference} up to "
        f"the first difference, at token {first.token} of answer {first.answer}: "
        f"'{first.ours}' instead of '{first.theirs}'{tie}; {largest}."
    )
