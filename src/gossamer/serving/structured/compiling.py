"""Compiles one form for one vocabulary, and says why and where it cannot be kept to."""

from array import array

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from gossamer.errors import cut
from gossamer.serving.structured.bounds import FormError
from gossamer.serving.structured.sources import MAX_REASON, framed, grammar_of, place_of

STACK_BYTES = 512 * 1024**2
"""The library descends into schemas and rules by recursion: a chain of as many references as the
largest text has room for takes a fifth of this. It is only taken where it is used."""

_LIMITS = LLParserLimits(
    # Ambiguous grammars make a row of thousands of items, whose squares are looked through: the
    # schema of a thousand properties takes a tenth of this.
    max_items_in_row=500,
    step_max_items=20_000,
    initial_lexer_fuel=500_000,
    step_lexer_fuel=200_000,
    # Some 2 KiB each: a grammar takes 60 MiB at the most.
    max_lexer_states=30_000,
    max_grammar_size=200_000,
    # What it would say of its own state is nothing to a user.
    verbose_errors=False,
)


def compile_form(
    tokenizer: LLTokenizer, kind: str, text: str, frame: str | None = None
) -> tuple[LLMatcher, bytes]:
    """Compile `text`, a form of the `kind` of `StructuredOutputs`, within a `frame` if it has one.

    Returns the grammar at its begin, and the mask of the first token, a bit for each. Raises
    `FormError` that names the place of what is wrong, not supported, or too large.
    """
    try:
        grammar = grammar_of(kind, text)
    except (ValueError, OverflowError, TypeError) as error:
        # Of these, a `FormError` says what is wrong, and the library's say it as well.
        raise FormError(cut(str(error), MAX_REASON)) from None
    if frame is not None:
        grammar = framed(grammar, frame)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=_LIMITS)
    words = array("I", bytes(4 * -(-tokenizer.vocab_size // 32)))
    if not matcher.is_error():
        # `compute_bitmask` would give a word more for some sizes of vocabularies.
        matcher.unsafe_compute_mask_ptr(words.buffer_info()[0], len(words) * words.itemsize)
    first = words.tobytes()
    reason = matcher.get_error() or _trouble(matcher, first)
    if reason:
        raise FormError(place_of(kind, text, reason))
    return matcher, first


def _trouble(matcher: LLMatcher, first: bytes) -> str:
    """The library's error at the first token that may come; empty if there is none.

    That a grammar has too many ways to go on shows there.
    """
    last = int.from_bytes(first, "little").bit_length() - 1
    trial = matcher.deep_copy()
    if not trial.consume_token(last):
        return trial.get_error() or "its first token cannot be taken"
    return ""
