"""The rooms of the package, drawn from its imports: who stands on whom, and what happens where."""

import ast
import sys
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path

from generator.markdown import one_line, table

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "helpers"))

from house import PACKAGE, Source, imported_sources, sources  # noqa: E402

Graph = dict[str, set[str]]
BEGIN, END = "<!-- {}: written by docs/generate.py -->", "<!-- end -->"


def page() -> str:
    """The architecture page with the drawings that the code gives now."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for name, drawing in {"rooms": _package(), "serving": _serving()}.items():
        begin = BEGIN.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(END)
        text = f"{before}{begin}\n\n{drawing}\n{END}{after}"
    return text


def _package() -> str:
    return _drawing(PACKAGE, lambda source: source.room)


def _serving() -> str:
    def place(source: Source) -> str:
        parts = source.name.split("/")
        inside = parts[0] == "serving" and parts[1] != "__init__.py"
        return parts[1].removesuffix(".py") if inside else ""

    return _drawing(PACKAGE / "serving", place)


def _drawing(folder: Path, room_of: Callable[[Source], str]) -> str:
    """The floors of the rooms of `folder`, and a table of what happens in each of its folders."""
    graph = _graph(room_of)
    floors: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        floors[room] = 1 + max((floors[below] for below in graph[room]), default=0)
    lines = ["```"]
    for floor in range(max(floors.values()), 0, -1):
        names = sorted(room for room in graph if floors[room] == floor)
        lines.append(f"{floor}  {'   '.join(names)}")
    rows = [
        (f"`{room}`", _sentence(folder / room / "__init__.py"), _listed(graph[room], folder))
        for room in sorted(graph, key=lambda room: (-floors[room], room))
        if (folder / room).is_dir()
    ]
    head = ("room", "what happens there", "stands on")
    return "\n".join([*lines, "```", "", table(head, rows)]) + "\n"


def _listed(rooms: set[str], folder: Path) -> str:
    """Those that are folders; single files serve all rooms and would only be noise."""
    return ", ".join(f"`{room}`" for room in sorted(rooms) if (folder / room).is_dir()) or "–"


def _graph(room_of: Callable[[Source], str]) -> Graph:
    """What each room imports of the others, inside functions too."""
    graph: Graph = {}
    for source in sources():
        if here := room_of(source):
            targets = {room_of(target) for target in imported_sources(source)}
            graph.setdefault(here, set()).update(targets - {here, ""})
    return graph


def _sentence(init: Path) -> str:
    """The first paragraph of a room's docstring."""
    text = ast.get_docstring(ast.parse(init.read_text("utf-8")))
    assert text, f"{init} says nothing of its room"
    return one_line(text.partition("\n\n")[0])
