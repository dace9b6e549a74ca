"""Write the third-party modules of the page from the packages that `vendor.lock` pins.

`python scripts/vendor.py` fetches each tarball from the npm registry, refuses one whose SHA-512 is
not the pinned one, takes the few files that the page loads, and turns their imports of packages
into imports of files beside them: a page without inline scripts can have no import map. The hashes
of what was written go into the lock. `--check` compares them with the folder and needs no network.
"""

import argparse
import base64
import hashlib
import io
import json
import re
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "scripts" / "vendor.lock"
VENDOR = ROOT / "src" / "gossamer" / "studio" / "page" / "vendor"
REGISTRY = "https://registry.npmjs.org"
# The module that each bare import means, as a file of the folder.
MODULES = {
    "preact": "preact.js",
    "preact/hooks": "hooks.js",
    "@preact/signals-core": "signals-core.js",
}
BARE_IMPORT = re.compile(r'((?:from|import)\s*)"([@a-z][\w@/.-]*)"')
SOURCE_MAP = re.compile(r"^\s*//# sourceMappingURL=.*$\n?", re.MULTILINE)


def write(lock: dict[str, Any], registry: str) -> None:
    """Fetch all packages and write their files, then the hashes of these into `lock`."""
    VENDOR.mkdir(parents=True, exist_ok=True)
    hashes: dict[str, str] = {}
    for name, package in lock["packages"].items():
        members = unpack(fetch(name, package, registry))
        for source, target in package["files"].items():
            content = members[f"package/{source}"]
            if target.endswith(".js"):
                content = localized(content.decode("utf-8"), target).encode("utf-8")
            (VENDOR / target).write_bytes(content)
            hashes[target] = sha256(content)
    for path in VENDOR.iterdir():
        if path.name not in hashes:
            path.unlink()
    lock["files"] = dict(sorted(hashes.items()))


def fetch(name: str, package: dict[str, Any], registry: str) -> bytes:
    """Give the bytes of a package's tarball; ends the program if they are not the pinned ones."""
    base = name.rpartition("/")[2]
    url = f"{registry.rstrip('/')}/{name}/-/{base}-{package['version']}.tgz"
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != package["integrity"]:
        sys.exit(f"{url}: integrity {found} is not the pinned {package['integrity']}")
    return content


def unpack(tarball: bytes) -> dict[str, bytes]:
    """Read the plain files of a tarball by name; nothing is written."""
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        members = ((member.name, archive.extractfile(member)) for member in archive)
        return {name: file.read() for name, file in members if file is not None}


def localized(code: str, target: str) -> str:
    """Make the imports of a module those of files beside it; leave out where its map would be."""

    def local(match: re.Match[str]) -> str:
        if match[2] not in MODULES:
            sys.exit(f"{target} imports '{match[2]}', for which MODULES names no file")
        return f'{match[1]}"./{MODULES[match[2]]}"'

    return SOURCE_MAP.sub("", BARE_IMPORT.sub(local, code))


def differences(lock: dict[str, Any]) -> list[str]:
    """Say what of the folder is not as `lock` has it."""
    pinned = lock["files"]
    found = {path.name: sha256(path.read_bytes()) for path in VENDOR.iterdir() if path.is_file()}
    wrong = [f"{name} is missing" for name in pinned.keys() - found.keys()]
    wrong += [f"{name} is in no package of the lock" for name in found.keys() - pinned.keys()]
    both = pinned.keys() & found.keys()
    return sorted(wrong + [f"{name} was changed" for name in both if pinned[name] != found[name]])


def sha256(content: bytes) -> str:
    """Hash a file as the lock writes it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content).digest()).decode()


def main() -> int:
    """Write or check; 1 if the folder differs from the lock under `--check`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only; no network")
    parser.add_argument("--registry", default=REGISTRY, help="npm registry to fetch from")
    options = parser.parse_args()
    lock = json.loads(LOCK.read_text("utf-8"))
    if options.check:
        wrong = differences(lock)
        for line in wrong:
            print(f"page/vendor: {line}; run scripts/vendor.py", file=sys.stderr)
        return 1 if wrong else 0
    write(lock, options.registry)
    LOCK.write_text(json.dumps(lock, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
