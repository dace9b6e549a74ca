"""What the package says of itself, and the advice on how to install it."""

import re
import subprocess
import tomllib

import pytest
import yaml
from house import ROOT, sources, tracked_files

from gossamer.extras import EXTRAS
from gossamer.version import VERSION

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.lower().replace("_", "-").split("==")
    for line in (ROOT / "constraints.txt").read_text().split()
)


def test_every_dependency_is_pinned_in_the_constraints():
    names = [re.match(r"[\w-]+", need)[0].lower().replace("_", "-") for need in needs()]
    # Kernels that run on GPUs only, trackers of which the tests have stand-ins, and what cannot be
    # installed beside the pins.
    free = {"flashinfer-python", "flwr", "liger-kernel", "trackio", "wandb"}
    assert {name for name in names if name not in PINS} <= free


def test_the_version_is_written_once():
    import gossamer

    assert gossamer.__version__ == VERSION == PROJECT["version"]
    written = [s.name for s in sources() if f'"{PROJECT["version"]}"' in s.path.read_text()]
    assert not written


def needs():
    extras = PROJECT["optional-dependencies"].values()
    return [*PROJECT["dependencies"], *(need for extra in extras for need in extra)]


def test_the_code_knows_what_each_extra_brings():
    for extra, names in EXTRAS.items():
        needs = PROJECT["optional-dependencies"][extra]
        brought = [re.match(r"[\w-]+", need)[0].replace("-", "_") for need in needs]
        assert sorted(name.replace(".", "_") for name in names) == brought


def test_commits_and_pull_requests_are_checked_by_the_same_targets():
    wanted = re.findall(r"^make ([\w-]+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert "test" in wanted
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [f"make {target}" for target in wanted]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())
    assert workflow["jobs"]["checks"]["steps"][-1] == {"run": ".ci/run"}


@pytest.mark.parametrize("page", ["README.md", "docs/guides/first-run.md"])
def test_the_advice_on_torch_names_the_pinned_version(page):
    found = re.findall(r"torch (\d+\.\d+\.\d+)", (ROOT / page).read_text())
    assert found
    assert set(found) == {PINS["torch"]}


def test_the_set_up_asks_the_named_index_for_the_pinned_torch_alone():
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "lint", "TORCH_INDEX=some-index"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'PIP_INDEX_URL="some-index"' in done.stdout
    assert "torch=$(grep '^torch==' constraints.txt)" in done.stdout


def test_the_long_description_has_no_link_that_an_index_page_would_break():
    text = PROJECT["readme"]["text"]
    assert "gossamer serve" in text
    assert not re.findall(r"\]\((?!https://)", text)


def test_nobody_is_sent_to_an_index_for_gossamer_itself():
    # In pieces, so that this file does not hold it.
    word = "pip install 'gos" + "samer"
    wrong = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        wrong += [str(path.relative_to(ROOT))] if word in text else []
    assert not wrong, wrong
