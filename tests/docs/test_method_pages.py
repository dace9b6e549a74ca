"""Every method has its page, and the index and the navigation lead to it."""

import re
from pathlib import Path

import pytest

from gossamer import methods

ROOT = Path(__file__).resolve().parents[2]
INDEX = (ROOT / "docs" / "methods" / "index.md").read_text()
# Other names of methods that have a page.
ALIASES = {"federa": "pissa", "lamda_pp": "lamda", "nodireft": "direft"}
PARTS = ["Equation", "When to use it", "Settings", "Cost", "What differs", "Reference"]


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_a_page(name):
    row = next((line for line in INDEX.splitlines() if f"`{name}`" in line), None)
    assert row, f"{name} is not in docs/methods/index.md"
    assert f"| {methods.find(name).kind} |" in row
    page = ROOT / "docs" / "methods" / f"{ALIASES.get(name, name)}.md"
    headings = re.findall(r"^## (.*)$", page.read_text(), re.M)
    for part in PARTS:
        assert any(heading.startswith(part) for heading in headings), f"{page.name}: no '{part}'"
    assert f"methods/{page.name}" in (ROOT / "mkdocs.yml").read_text()
