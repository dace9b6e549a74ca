"""The rules of the house: who may import whom, how long a file may be, what may be said."""

import ast
import re
import subprocess
import sys
import time
from graphlib import TopologicalSorter
from importlib import import_module

import pytest
from house import PACKAGE, ROOT, Source, folders, imported_sources, sources, tracked_files

BOTTOM = {"errors", "files", "machine", "settings", "version"}
# Which rooms each room may import. What is missing here is forbidden.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "machine": set(),
    "__main__": {"cli"},
    "settings": {"errors"},
    "version": set(),
    "basemodel": BOTTOM,
    "adapters": BOTTOM,
    "kernels": BOTTOM,
    "methods": BOTTOM | {"adapters", "kernels"},
    "tuners": {"methods"},
    "sparsity": BOTTOM | {"adapters", "kernels"},
    "training": BOTTOM | {"adapters", "basemodel", "kernels", "methods", "sparsity"},
    "serving": BOTTOM | {"adapters", "basemodel", "kernels"},
    "merging": BOTTOM | {"adapters", "basemodel"},
    "verification": BOTTOM | {"adapters", "basemodel", "methods", "serving", "training"},
    "cli": BOTTOM
    | {"adapters", "basemodel", "methods", "serving", "sparsity", "training", "verification"},
}
# Where a third-party package may be imported: a pattern on the path below src/gossamer.
HOMES = {
    "peft": r"(methods|training|verification)/",
    "trl": r"(methods|training)/",
    "datasets": r"(methods|training)/",
    "fastapi": r"serving/http/",
    "uvicorn": r"serving/http/",
    "starlette": r"serving/http/",
    "prometheus_client": r"serving/http/",
    "numba": r"(.*/)?cpu\.py$|kernels/tiles/",
    "llvmlite": r"(.*/)?cpu\.py$|kernels/tiles/",
    "re2": r"adapters/patterns\.py$",
    "triton": r"(.*/)?triton_kernels\.py$",
}
# Decisions over integers and dataclasses: their tests need no tensors.
PURE_FOLDERS = (
    "serving/core",
    "serving/memory",
    "serving/store",
    "serving/scheduler",
    "serving/simulation",
)
TENSOR_PACKAGES = {"torch", "numpy", "numba", "transformers"}
MAX_LINES = 400
LONG_FILE_REASON = "Longer than most files because"


def _rooms_of(source: Source) -> set[str]:
    parts = (name.split(".") for name in source.imports)
    rooms = {p[1] for p in parts if p[0] == "gossamer" and len(p) > 1}
    return {room for room in rooms if (PACKAGE / room).is_dir() or room in BOTTOM}


def test_rooms_import_only_what_the_arrows_allow():
    wrong = [
        f"{source.name} imports {room}"
        for source in sources()
        if source.room  # the package's own __init__ only names the public names
        for room in _rooms_of(source) - ARROWS.get(source.room, set()) - {source.room}
    ]
    assert not wrong, wrong


def test_every_room_has_its_arrows():
    rooms = {path.name for path in folders() if path.parent == PACKAGE}
    assert rooms <= ARROWS.keys(), f"no arrows for {rooms - ARROWS.keys()}"
    list(TopologicalSorter(ARROWS).static_order())


@pytest.mark.parametrize("package", HOMES)
def test_third_party_packages_stay_in_their_rooms(package):
    wrong = [
        source.name
        for source in sources()
        if any(name.split(".")[0] == package for name in source.imports)
        and not re.match(HOMES[package], source.name)
    ]
    assert not wrong, f"{package} is imported by {wrong}"


def test_only_the_serve_command_reaches_http():
    wrong = [
        source.name
        for source in sources()
        if any(name.startswith("gossamer.serving.http") for name in source.imports)
        and not source.name.startswith("serving/http/")
        and source.name != "cli/serve.py"
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("folder", PURE_FOLDERS)
def test_policy_folders_reach_no_tensors(folder):
    waiting = [source for source in sources() if source.name.startswith(f"{folder}/")]
    assert waiting
    reached = set(waiting)
    while waiting:
        source = waiting.pop()
        packages = {imported.split(".")[0] for imported in source.imports}
        assert not packages & TENSOR_PACKAGES, f"{folder} reaches {source.name}"
        new = set(imported_sources(source)) - reached
        reached |= new
        waiting += new


def _related(one: str, other: str) -> bool:
    """Whether one of two folders lies in the other (or they are the same)."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def test_no_cycles_between_folders():
    graph: dict[str, set[str]] = {}
    for source in sources():
        folders = {target.folder for target in imported_sources(source)}
        # Between a folder and the folders inside it, the modules below must be free of cycles.
        known = graph.setdefault(source.folder, set())
        known |= {folder for folder in folders if not _related(folder, source.folder)}
    list(TopologicalSorter(graph).static_order())


def test_no_cycles_between_modules():
    graph = {
        source.name: {target.name for target in imported_sources(source)} - {source.name}
        for source in sources()
        if source.room  # the package's own __init__ names what it imports on demand
    }
    list(TopologicalSorter(graph).static_order())


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


def _public_packages() -> list[str]:
    inits = (source for source in sources() if source.path.name == "__init__.py")
    return [source.folder for source in inits if "__all__" in source.path.read_text()]


@pytest.mark.parametrize("package", _public_packages())
def test_public_names_are_sorted_and_exist(package):
    module = import_module(package)
    groups = [(not n.isupper(), not n[0].isupper(), n) for n in module.__all__]
    assert groups == sorted(groups), f"{package}.__all__ is not sorted"
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize(
    "statement",
    ["import gossamer", "from gossamer.cli.main import main; main(['--help'])"],
    ids=["import", "help"],
)
def test_nothing_heavy_is_loaded(statement, capsys):
    heavy = ("torch", "transformers", "pydantic", "numpy", "peft", "fastapi", "yaml")
    show = f"print(*[m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    code = f"{statement}\nimport sys\n{show}"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with capsys.disabled():
        print(f"\n  {statement}: {time.perf_counter() - start:.2f} s")
    assert done.stderr.strip() == ""


def test_serving_runs_without_the_training_packages():
    serving = [s for s in sources() if s.room == "serving" and "triton" not in s.path.name]
    modules = [f"{s.folder}.{s.path.stem}".removesuffix(".__init__") for s in serving]
    code = (
        "import sys, importlib\n"
        "for name in ('peft', 'trl', 'datasets', 'accelerate'): sys.modules[name] = None\n"
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Spelled in pieces so that this file does not hold them.
FORBIDDEN = ["/wo" + "rk/", "/ro" + "ot/", "index" + "-url", "find" + "-links"]


def test_no_machine_is_named():
    wrong = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        wrong += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert not wrong, wrong


def _readme_tree() -> dict[str, str]:
    """Path of each entry of README's tree, and its phrase."""
    block = re.search(r"```\n(src/gossamer/\n.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block, "README has no tree"
    entries: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in block[1].splitlines():
        name, _, phrase = line.strip().partition(" ")
        depth = len(line) - len(line.lstrip())
        parents = [parent for parent in parents if parent[0] < depth]
        path = "".join(parent[1] for parent in parents) + name
        entries[path.rstrip("/")] = phrase.strip()
        parents.append((depth, name))
    return entries


def test_readme_has_a_phrase_for_every_folder():
    tree = _readme_tree()
    names = {path.relative_to(ROOT).as_posix() for path in folders()}
    assert names <= tree.keys(), f"not in README's tree: {sorted(names - tree.keys())}"
    assert not [path for path in names if not tree[path] and path != "src/gossamer"]
    assert not [path for path in tree if not (ROOT / path).exists()]


def test_links_between_documents_lead_somewhere():
    wrong = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong, wrong
