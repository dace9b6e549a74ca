"""Plug-ins of a family have the same files, and no rule depends on a list of files kept by hand."""

import ast
from pathlib import Path

import pytest
from house import PACKAGE, ROOT

from gossamer.methods.registry import TABLE

KERNELS = PACKAGE / "kernels"
# What the operations share, and no operation itself.
SHARED = {"tiles"}
# Operations of plain torch alone, one file each.
PLAIN = {"trained_parts"}
REQUIRED = {"__init__", "reference", "cpu"}
OPTIONAL = {
    *("batch", "device_table", "flashinfer", "matmul", "quantized"),
    *("triton_kernels", "triton_launches"),
}


def _operations() -> list[str]:
    folders = {path.parent.name for path in KERNELS.glob("*/__init__.py")}
    return sorted(folders - SHARED - PLAIN)


@pytest.mark.parametrize("operation", _operations())
def test_every_kernel_has_the_files_of_its_family(operation):
    files = {path.stem for path in (KERNELS / operation).glob("*.py")}
    assert files >= REQUIRED, f"{operation} lacks {REQUIRED - files}"
    assert files <= REQUIRED | OPTIONAL, f"{operation} has {files - REQUIRED - OPTIONAL} more"


METHODS = PACKAGE / "methods"
OF_EVERY_METHOD = {"__init__", "settings", "method"}
OF_EVERY_TUNER = OF_EVERY_METHOD | {"config", "layer", "model"}
"""As PEFT divides its own; a file beside them holds mathematics that is named after."""


def _method_folders() -> list[str]:
    return sorted(
        path.parent.name for path in METHODS.glob("*/method.py") if path.parent.name != "common"
    )


@pytest.mark.parametrize("name", _method_folders())
def test_every_method_of_ours_has_the_files_of_its_family(name):
    files = {path.stem for path in (METHODS / name).glob("*.py")}
    family = OF_EVERY_TUNER if "config" in files else OF_EVERY_METHOD
    assert files >= family, f"{name} lacks {family - files}"
    assert "register_tuner(" not in (METHODS / name / "model.py").read_text() or "config" in files


def test_a_method_is_a_folder_of_the_family_or_one_module_of_the_table():
    homes = {
        target.partition(":")[0].removeprefix("gossamer.methods.") for target, _ in TABLE.values()
    }
    folders = {path.parent.name for path in METHODS.glob("*/__init__.py")} - {"common"}
    assert {home.removesuffix(".method") for home in homes if "." in home} == folders
    modules = {path.stem for path in METHODS.glob("*.py")} - {"__init__", "registry", "settings"}
    assert {home for home in homes if "." not in home} == modules


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
