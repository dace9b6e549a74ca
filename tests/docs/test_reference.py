import re
import subprocess
import sys
from pathlib import Path

import yaml
from fake_engine import FakeEngine
from house import ROOT

from gossamer.serving.http.app import create_app
from gossamer.serving.http.openapi import describe
from gossamer.serving.http.settings import HttpSettings

from tiny import tiny_tokenizer

DOCS = ROOT / "docs"


def test_reference_says_what_the_code_says():
    # In a process of its own: the pages list all settings, and tests define some as well.
    script = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_reference_lists_the_routes_that_the_server_has():
    engine = FakeEngine(tiny_tokenizer())
    try:
        app = create_app(engine, HttpSettings())
    finally:
        engine.shutdown()
    document = describe(app.state.routers, needs_key=False)
    served = [
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    ]
    page = (DOCS / "reference" / "http.md").read_text()
    # The first table is that of any server; a parameter may be said to reach over slashes.
    table = page.partition("| --- | --- |\n")[2].partition("\n\n")[0]
    listed = [line.split("`")[1].replace(":path}", "}") for line in table.splitlines()]
    assert sorted(listed) == sorted(served)


def _nav_files(nav) -> set[str]:
    if isinstance(nav, str):
        return {nav}
    children = nav.values() if isinstance(nav, dict) else nav
    return set().union(*map(_nav_files, children))


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert _nav_files(config["nav"]) == pages


def test_guides_say_nothing_of_commands_that_do_not_exist():
    from gossamer.cli.main import COMMANDS

    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]:
        for line in path.read_text().splitlines():
            words = line.removeprefix("$ ").removeprefix(".venv/bin/").split()
            if words[:1] == ["gossamer"] and len(words) > 1 and Path(words[1]).suffix == "":
                assert words[1] in {*COMMANDS, "COMMAND", "--help"}, f"{path.name}: {line}"


def test_documents_name_only_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.M))
        assert named <= targets, f"{path.name}: {named - targets}"
