"""What the pages say of the tree and of each other is true, and no page names a machine."""

import re

from house import ROOT, folders, tracked_files

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
