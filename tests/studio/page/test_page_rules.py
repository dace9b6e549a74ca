"""What the page may not do: no markup from strings, nothing inline, nothing from elsewhere."""

import re
import zipfile

import pytest
from house import PACKAGE

PAGE = PACKAGE / "studio" / "page"
OURS = sorted(path for path in PAGE.rglob("*") if path.is_file() and "vendor" not in path.parts)
MODULES = [path for path in OURS if path.suffix == ".js"]
SHEETS = [path for path in OURS if path.suffix == ".css"]
MAX_LINES = 200
MAX_WIDTH = 100
MAX_FILES = 15
MAX_BYTES, MAX_REQUESTS = 300_000, 20
MAX_WHEEL_BYTES = 600_000
# Ways from a text to markup or code.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySet|\beval\(|new Function"
    r"|srcdoc|DOMParser|setAttribute\(.on"
)
IMPORT = re.compile(r"(?<![\"'])\b(?:from|import)\b\s*\(?\s*\"([^\"]+)\"")


def name_of(path):
    return path.relative_to(PAGE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_small_and_make_no_markup_of_texts(path):
    text = path.read_text()
    lines = text.splitlines()
    assert len(lines) < MAX_LINES
    assert FORBIDDEN.findall(text) == []
    assert not re.search(r"\sstyle=[\"']", text), "an inline style: the policy refuses it"
    assert lines[0].startswith("// "), "a module begins with what it is for"


def test_ways_to_markup_would_be_seen():
    assert FORBIDDEN.search("element.innerHTML = text")
    assert FORBIDDEN.search("setTimeout(new Function(text))")


def test_lines_are_short():
    long = [
        f"{name_of(path)}:{number}: {len(line)}"
        for path in [*MODULES, *SHEETS, PAGE / "index.html"]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > MAX_WIDTH
    ]
    assert long == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_lead_to_files_of_the_page(path):
    for target in IMPORT.findall(path.read_text()):
        assert target.startswith("."), f"'{target}' is not a file beside it"
        resolved = (path.parent / target).resolve()
        assert resolved.is_file(), target
        assert PAGE in resolved.parents


def test_every_module_is_used():
    text = "".join(path.read_text() for path in OURS if path.suffix in (".js", ".html"))
    assert [name_of(path) for path in MODULES if f"/{path.name}" not in text] == []


def test_every_export_is_used_elsewhere():
    texts = {path: path.read_text() for path in MODULES}
    unused = [
        f"{name_of(path)}: {name}"
        for path, text in texts.items()
        for name in re.findall(r"^export (?:async )?(?:function\*?|const|class) (\w+)", text, re.M)
        if not any(re.search(rf"\b{name}\b", texts[other]) for other in MODULES if other != path)
    ]
    assert unused == []


def test_folders_of_the_page_are_small():
    for folder in {path.parent for path in MODULES}:
        assert len([path for path in folder.iterdir() if path.is_file()]) <= MAX_FILES


def test_the_document_has_nothing_inline_and_names_files_that_exist():
    html = (PAGE / "index.html").read_text()
    assert re.findall(r"<style|style=|\son\w+=", html) == []
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL) == [""]
    for name in re.findall(r"@BASE@/([^\"]+)", html):
        assert (PAGE / name).is_file() or name == "page.css", name


def test_nothing_is_fetched_from_elsewhere():
    for path in OURS:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"(?:https?:)?//[\w-]+\.\w+", text) == [], name_of(path)
    for path in SHEETS:
        assert not re.search(r"@import|url\(", path.read_text())


def test_the_first_view_is_light():
    """What a browser loads for home: the document, one sheet, and what home imports."""
    seen = set()
    queue = [PAGE / "js" / "main.js", PAGE / "js" / "views" / "jobs.js"]
    while queue:
        path = queue.pop()
        if path not in seen:
            seen.add(path)
            # A call of import() loads later.
            found = re.findall(r"from\s*\"(\.[^\"]+)\"", path.read_text())
            queue += [(path.parent / target).resolve() for target in found]
    others = [*SHEETS, PAGE / "vendor" / "uplot.css", PAGE / "index.html", PAGE / "icon.svg"]
    # The document, the sheet, the icon and the stream of news.
    assert len(seen) + 4 <= MAX_REQUESTS, sorted(map(name_of, seen))
    assert sum(path.stat().st_size for path in [*seen, *others]) <= MAX_BYTES


def test_studio_and_jobs_add_little_to_a_wheel(tmp_path):
    wheel = tmp_path / "wheel.zip"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as packed:
        for room in ("studio", "jobs"):
            for path in (PACKAGE / room).rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    packed.write(path, path.relative_to(PACKAGE))
    assert 100_000 < wheel.stat().st_size <= MAX_WHEEL_BYTES
