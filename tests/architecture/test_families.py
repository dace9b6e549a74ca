"""Plug-ins of a family have the same files, and no rule depends on a list of files kept by hand."""

import ast
from pathlib import Path

import pytest
from house import PACKAGE, ROOT

KERNELS = PACKAGE / "kernels"
# What the operations share, and no operation itself.
SHARED = {"tiles"}
REQUIRED = {"__init__", "reference", "cpu"}
OPTIONAL = {"batch", "matmul", "triton_kernels"}


def _operations() -> list[str]:
    folders = {path.parent.name for path in KERNELS.glob("*/__init__.py")}
    return sorted(folders - SHARED)


@pytest.mark.parametrize("operation", _operations())
def test_every_kernel_has_the_files_of_its_family(operation):
    files = {path.stem for path in (KERNELS / operation).glob("*.py")}
    assert files >= REQUIRED, f"{operation} lacks {REQUIRED - files}"
    assert files <= REQUIRED | OPTIONAL, f"{operation} has {files - REQUIRED - OPTIONAL} more"


MOST_FILES_IN_A_LIST = 3


def _names_a_file(text: str) -> bool:
    """Whether a text is the path or the dotted name of a file, from the package or a room of it."""
    stem = text.removesuffix(".py").removeprefix("gossamer.").replace(".", "/")
    if not stem or ("/" not in stem.strip("/") and not text.endswith(".py")):
        return False
    return any(Path(root, f"{stem}.py").is_file() for root in (PACKAGE, *PACKAGE.glob("*/")))


def test_no_rule_keeps_a_list_of_files():
    wrong = []
    for path in sorted((ROOT / "tests" / "architecture").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
                items = node.keys if isinstance(node, ast.Dict) else node.elts
                texts = [item.value for item in items if isinstance(item, ast.Constant)]
                files = [text for text in texts if isinstance(text, str) and _names_a_file(text)]
                if len(files) > MOST_FILES_IN_A_LIST:
                    wrong.append(f"{path.name}, line {node.lineno}: {files}")
    assert not wrong, wrong
