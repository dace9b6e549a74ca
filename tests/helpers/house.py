"""The package's source as data for the tests of the house rules: files and what they import."""

import ast
import subprocess
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "gossamer"


@dataclass(frozen=True)
class Source:
    """One Python file of the package."""

    path: Path

    @property
    def name(self) -> str:
        """Its path below src/gossamer, with forward slashes."""
        return self.path.relative_to(PACKAGE).as_posix()

    @property
    def room(self) -> str:
        """The top folder (or top module) it lies in; empty for the package's own `__init__`."""
        first = self.name.split("/")[0].removesuffix(".py")
        return "" if first == "__init__" else first

    @property
    def folder(self) -> str:
        """Its folder as a dotted name, for example `gossamer.serving.http`."""
        return ".".join(self.path.parent.relative_to(PACKAGE.parent).parts)

    @property
    def module(self) -> str:
        """Its dotted name, for example `gossamer.serving.http.app`."""
        return f"{self.folder}.{self.path.stem}".removesuffix(".__init__")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text())

    @cached_property
    def imports(self) -> set[str]:
        """Dotted names it imports, at load time or inside functions; relative ones resolved."""
        calls = (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))
        return self.statements.union(*map(_called_import, calls))

    @cached_property
    def statements(self) -> set[str]:
        """The same without calls of `import_module`, by which a table finds its entries."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.update(self._from_names(node))
        return found

    def _from_names(self, node: ast.ImportFrom) -> set[str]:
        module = node.module or ""
        if node.level:
            base = self.folder.split(".")
            base = base[: len(base) - node.level + 1]
            module = ".".join([*base, module]).rstrip(".")
        # `from gossamer import training` reaches the room just as the long form does.
        return {f"{module}.{alias.name}" for alias in node.names}


def _called_import(node: ast.Call) -> set[str]:
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if name in ("import_module", "__import__") and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return {first.value}
    return set()


@cache
def sources() -> list[Source]:
    """All Python files of the package, sorted by name."""
    return [Source(path) for path in sorted(PACKAGE.rglob("*.py"))]


def imported_sources(source: Source) -> set[Source]:
    """Files of the package that `source` names in imports, but the package's own `__init__`."""
    found = {_file_of(name) for name in source.statements if name.startswith("gossamer.")}
    return {Source(path) for path in found if path != PACKAGE / "__init__.py"}


def _file_of(name: str) -> Path:
    """The file that defines the module or name `name`."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = PACKAGE.parent.joinpath(*parts[:count])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    raise AssertionError(f"no file for {name}")


def class_nodes(source: Source) -> list[ast.ClassDef]:
    """The classes that stand at the top of a file."""
    return [node for node in source.tree.body if isinstance(node, ast.ClassDef)]


def folders() -> list[Path]:
    """All folders of the package that hold Python files."""
    return sorted({path.parent for path in PACKAGE.rglob("*.py")})


def tracked_files() -> list[Path]:
    """Files under version control that exist; skips the test where there is no git."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        import pytest  # not above: the pages are generated where there may be none

        pytest.skip("not a git checkout")
    return [path for line in listing.stdout.splitlines() if (path := ROOT / line).is_file()]
