"""Take the pictures of Tune Studio in the guides, or all of its views in all sizes and colours.

`python scripts/screenshots.py` writes those of the guides into docs/images. `--all FOLDER` writes
every view wide and narrow, light and dark, to be looked at. The server is the stand-in of the
browser tests, with recorded jobs and a fake engine, so pictures show the same whenever they are
taken; the page is the real one. It needs Chromium and the package playwright.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / each) for each in ("tests/studio/browser", "tests/helpers", ".")]

import recorded  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402
from stand_in import ADAPTERS, StandIn  # noqa: E402

from gossamer.serving.core.stats import AdapterStatus  # noqa: E402

FILE, HELD_OUT = (f"file-{number:024d}" for number in (1, 2))
DONE = ",".join(f"ftjob-{number:024d}" for number in (7, 6))
RUNNING = f"jobs/ftjob-{9:024d}"
NEW = f"new?file={FILE}&held={HELD_OUT}&name=pirate&methods=lora,dora"
# The address of each view, and a text that stands there once everything has come.
VIEWS = {
    "jobs": ("", "step 143 of 230"),
    "new": (NEW, "460 steps"),
    "job": (RUNNING, "The held-out loss"),
    "job-report": (f"{RUNNING}?tab=data", "What the model sees"),
    "job-settings": (f"{RUNNING}?tab=settings", "max_length"),
    "job-checkpoints": (f"{RUNNING}?tab=checkpoints", "Training loss"),
    "job-files": (f"{RUNNING}?tab=files", "Training rows"),
    "job-log": (f"{RUNNING}?tab=log", "loss"),
    "comparison": (f"jobs/ftjob-{20:024d}", "Answers to held-out prompts"),
    "starved": (f"jobs/ftjob-{19:024d}", "other work has the processors"),
    "done": (f"jobs/ftjob-{7:024d}", "The held-out loss"),
    "export": (f"jobs/ftjob-{2:024d}", "poet-merged"),
    "proof": (f"jobs/ftjob-{1:024d}", "Served as it was trained"),
    "failed": (f"jobs/ftjob-{5:024d}", "the loss became NaN"),
    "chat": ("chat?models=smollm2-135m,helpdesk", "Ask something below"),
    "compare": (f"compare?jobs={DONE}", "Held-out loss against cost"),
    "adapters": ("adapters", "in memory, ready, pinned"),
    "data": ("data", "held-out.jsonl"),
    "server": ("server", "One pool of"),
    "keys": ("keys", "without a file of keys"),
}
GUIDES = (
    "jobs",
    "new",
    "job",
    "comparison",
    "compare",
    "chat",
    "adapters",
    "data",
    "server",
    "keys",
)
"""The views that the guides show."""
TUNED = (
    AdapterStatus(name=recorded.TUNED, state="resident", kind="low-rank", rank=8,
                  num_bytes=9_780_000, digest="90aa71b2c3d4", created=1_796_000_000, hits=1204),
    AdapterStatus(name=f"ft:{recorded.MODEL}:default:quiz-lora-seed0:qWeRtY12", state="host",
                  kind="low-rank", rank=16, num_bytes=19_560_000, digest="11aa71b2c3d4",
                  created=1_796_000_000, hits=7),
)  # fmt: skip
QUESTION = "Where do you live?"
COLOURS = 64
"""Of a picture in the guides, which everyone who fetches the sources has."""
SIZES = {"wide": 1280, "narrow": 380}


def main() -> int:
    """Take the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every view, into FOLDER")
    parser.add_argument("--only", nargs="*", choices=VIEWS, help="of --all, these views")
    options = parser.parse_args()
    files = [recorded.file(1, "chats.jsonl"), recorded.file(2, "held-out.jsonl")]
    stand_in = StandIn(
        [*recorded.jobs(), *recorded.other_jobs()], files, (*ADAPTERS, *TUNED), admin=True
    )
    with stand_in.running() as url, browser() as chromium:
        if options.all is None:
            for view in GUIDES:
                path = ROOT / "docs" / "images" / f"studio-{view}.png"
                take(chromium, url, view, path, colours=COLOURS)
            return 0
        options.all.mkdir(parents=True, exist_ok=True)
        for view in options.only or VIEWS:
            for size, width in SIZES.items():
                for theme in ("light", "dark"):
                    path = options.all / f"{view}-{size}-{theme}.png"
                    take(chromium, url, view, path, width=width, theme=theme)
    return 0


@contextmanager
def browser() -> Iterator[Any]:
    """One Chromium, for a `with` statement."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox"], chromium_sandbox=False
        )
        yield launched
        launched.close()


def take(
    chromium: Any,
    url: str,
    view: str,
    path: Path,
    *,
    width: int = 1280,
    theme: Any = "light",
    colours: int | None = None,
) -> None:
    """Write the picture of a view, the whole length of the page; with few `colours` it is small."""
    address, text = VIEWS[view]
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme=theme, reduced_motion="reduce"
    )
    page: Page = context.new_page()
    page.goto(f"{url}/studio/{address}")
    expect(page.get_by_text(text).first).to_be_visible(timeout=20_000)
    if view == "chat":
        page.get_by_label("Message").fill(QUESTION)
        page.get_by_label("Message").press("Enter")
        expect(page.get_by_text("All have answered.")).to_be_attached()
    # Charts are drawn a frame after their numbers have come.
    page.wait_for_timeout(400)
    page.screenshot(path=path, full_page=True)
    context.close()
    if colours is not None:
        Image.open(path).convert("RGB").quantize(colours).save(path, optimize=True)
    print(f"{path} {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    sys.exit(main())
