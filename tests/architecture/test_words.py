"""Texts are in today's plain English, docstrings stand alone, and one name means one class."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from house import ROOT, sources

# Words of another century, or of no dictionary of this field, and what to write instead.
PLAIN = {
    r"anew": "again",
    r"aloud": "with an error",
    r"in vain": "without success, or say what was not found",
    r"put(?:s|ting)? out": "evict",
    r"so many": "this many, or the name of the number",
    r"whoever": "those who, or the one who acts: a client, a caller, a reader",
    r"nobody": "no one, or the one who is missing: no request, no client",
    r"(?:let|lets|letting) go": "drop the reference, or release",
    r"in disorder": "inconsistent",
    r"it is told": "it is given, or gets",
    r"lest": "so that ... not",
    r"whence": "from where",
    r"thrice": "three times",
}
# Messages stay as they were released, to the byte: (file, word) and how often it stands there.
KEPT = {
    ("src/gossamer/serving/engine/loop.py", "in disorder"): 1,
    ("src/gossamer/sparsity/frozen_linear.py", "anew"): 1,
    ("src/gossamer/sparsity/predictor_cache.py", "anew"): 2,
}
BANNED = re.compile(rf"\b({'|'.join(PLAIN)})\b", re.IGNORECASE)
# A first sentence that begins like this leans on the line before it.
LEANING = re.compile(r"(?:Of|As|Those|The same|Its|Their|Whose|What came out)\b|\.\.\.")


def _texts() -> Iterator[Path]:
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))
    for folder, endings in (("src", ("*.py",)), ("demo", ("*.py",)), ("docs", ("*.md", "*.py"))):
        for ending in endings:
            yield from sorted((ROOT / folder).rglob(ending))


def _remedy(word: str) -> str:
    return next(remedy for pattern, remedy in PLAIN.items() if re.fullmatch(pattern, word, re.I))


def test_texts_are_in_plain_words():
    wrong, kept = [], Counter()
    for path in _texts():
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text()
        # A phrase may be cut by the end of a line, with the sign of a comment on the next.
        flat = re.sub(r"\n *#? *", lambda gap: " " * len(gap[0]), text)
        for found in re.finditer(BANNED.pattern.replace(" ", " +"), flat, re.IGNORECASE):
            line = text.count("\n", 0, found.start()) + 1
            word = re.sub(" +", " ", found[0])
            if kept[name, word] < KEPT.get((name, word), 0):
                kept[name, word] += 1
                continue
            wrong.append(f"{name}:{line}: '{word}': write {_remedy(word)}")
    assert kept == KEPT, "a message has gone from KEPT"
    assert not wrong, "\n".join(wrong)


def _docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Of modules, classes and functions, and the texts below constants and fields."""
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        if not isinstance(body, list):
            continue
        for number, statement in enumerate(body):
            match statement:
                case ast.Expr(value=ast.Constant(value=str()) as text):
                    documents = number == 0 or isinstance(
                        body[number - 1], ast.Assign | ast.AnnAssign
                    )
                    if documents:
                        yield text


def test_docstrings_stand_alone():
    wrong = [
        f"{source.name}:{text.lineno}: '{str(text.value).strip().splitlines()[0]}'"
        for source in sources()
        for text in _docstrings(source.tree)
        if LEANING.match(str(text.value).strip())
    ]
    assert not wrong, "say what the thing is, or what the function does:\n" + "\n".join(wrong)


def test_no_two_public_classes_share_a_name():
    places = defaultdict(list)
    for source in sources():
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{source.name}:{node.lineno}")
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert not shared, shared
