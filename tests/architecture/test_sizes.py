"""How much one file, one folder and one constructor may hold."""

import ast
from collections import Counter
from pathlib import Path

from house import PACKAGE, ROOT, class_nodes, sources

MAX_LINES = 400
LONG_FILE_REASON = "Longer than most files because"
MAX_FILES = 15
MAX_PARAMETERS = 7


def test_files_are_short(capsys):
    lengths = {source: len(source.path.read_text().splitlines()) for source in sources()}
    with capsys.disabled():
        longest = sorted(lengths.items(), key=lambda item: -item[1])[:10]
        total = sum(lengths.values())
        print(f"\n{len(lengths)} files, {total} lines; the longest:")
        for source, length in longest:
            print(f"  {length:4} {source.name}")
    too_long = [
        f"{source.name}: {length}"
        for source, length in lengths.items()
        if length > MAX_LINES and LONG_FILE_REASON not in (ast.get_docstring(source.tree) or "")
    ]
    assert not too_long, f"over {MAX_LINES} lines without a reason at the head: {too_long}"


def _sizes(root: Path) -> Counter[str]:
    """Python files of each folder below `root`, package faces aside."""
    files = (path for path in root.rglob("*.py") if path.name not in ("__init__.py", "conftest.py"))
    return Counter(path.parent.relative_to(root).as_posix() for path in files)


def test_folders_are_small():
    large = {folder: size for folder, size in _sizes(PACKAGE).items() if size > MAX_FILES}
    assert not large, f"over {MAX_FILES} files: {large}"


def test_folders_of_tests_are_small():
    large = {folder: size for folder, size in _sizes(ROOT / "tests").items() if size > MAX_FILES}
    assert not large, f"over {MAX_FILES} files: {large}"


def _parameters(node: ast.ClassDef) -> int:
    """How many values the constructor of a class takes, `self` aside; 0 if it writes none."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            every = [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs]
            return len(every) - 1
    return 0


def test_constructors_in_serving_take_few_collaborators():
    many = {
        f"{source.name}: {node.name}": _parameters(node)
        for source in sources()
        if source.room == "serving"
        for node in class_nodes(source)
        if _parameters(node) > MAX_PARAMETERS
    }
    assert not many, f"over {MAX_PARAMETERS} parameters: {many}"
