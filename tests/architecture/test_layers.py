"""Imports run downward: no circle of files, no circle of folders, and few floors in serving."""

from functools import cache
from graphlib import TopologicalSorter

from house import Source, imported_sources, sources

# Folders of serving, lowest first. Each may import those before it.
SERVING = (
    "core",
    "tokenization",
    "client",
    "loadtest",
    "memory",
    "store",
    "scheduler",
    "simulation",
    "packing",
    "device",
    "runner",
    "structured",
    "engine",
    "http",
)
MAX_FLOORS = 8


def test_no_circles_of_files():
    graph = {
        source.name: {target.name for target in imported_sources(source)} - {source.name}
        for source in sources()
        if source.room  # the package's own __init__ names what it imports on demand
    }
    list(TopologicalSorter(graph).static_order())


def _related(one: str, other: str) -> bool:
    """Whether one of two folders lies in the other (or they are the same)."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def test_no_circles_of_folders():
    graph: dict[str, set[str]] = {}
    for source in sources():
        targets = {target.folder for target in imported_sources(source)}
        # Between a folder and the folders inside it, the files must be free of circles.
        known = graph.setdefault(source.folder, set())
        known |= {folder for folder in targets if not _related(folder, source.folder)}
    list(TopologicalSorter(graph).static_order())


def _place(source: Source) -> str:
    """The folder or the file directly in serving that holds `source`; empty outside serving."""
    parts = source.name.split("/")
    return parts[1].removesuffix(".py") if parts[0] == "serving" else ""


@cache
def _serving() -> dict[str, set[str]]:
    """What each folder and each file directly in serving imports of the others."""
    graph: dict[str, set[str]] = {}
    for source in sources():
        if here := _place(source):
            targets = {_place(target) for target in imported_sources(source)}
            graph.setdefault(here, set()).update(targets - {here, ""})
    return graph


def test_every_folder_of_serving_has_its_place():
    holding = {_place(source) for source in sources() if source.name.count("/") > 1}
    assert holding - {""} == set(SERVING)


def test_folders_of_serving_import_downward():
    upward = [
        f"{here} imports {target}"
        for here, targets in _serving().items()
        for target in targets
        if {here, target} <= set(SERVING) and SERVING.index(target) > SERVING.index(here)
    ]
    assert not upward, upward


def test_serving_has_few_floors():
    graph = _serving()
    floors: dict[str, int] = {}
    for here in TopologicalSorter(graph).static_order():
        floors[here] = 1 + max((floors[target] for target in graph[here]), default=0)
    assert max(floors.values()) <= MAX_FLOORS, sorted(floors.items(), key=lambda item: item[1])
