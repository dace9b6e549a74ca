"""Check the types of the page's modules with TypeScript's compiler, where npm is installed.

The modules are plain JavaScript, whose types are inferred and, where that does not do, told in
comments. Nothing is compiled; the vendored libraries are read but not judged. The compiler comes
from npm into build/page-types, once. Where there is no npm, or it reaches no registry, nothing is
checked and one line says so.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "src" / "gossamer" / "studio" / "page"
FOLDER = ROOT / "build" / "page-types"
COMPILER = "typescript@5.9.3"
PROGRAM = FOLDER / "node_modules" / "typescript" / "bin" / "tsc"
OPTIONS = {
    "allowJs": True,
    "checkJs": True,
    "noEmit": True,
    "target": "es2023",
    "module": "esnext",
    "moduleResolution": "bundler",
    "lib": ["es2023", "dom", "dom.iterable"],
    "types": [],
}


def main() -> int:
    """Check, and print what is wrong; returns the exit code."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return not_checked("npm is not installed")
    if not PROGRAM.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        install = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(FOLDER), COMPILER]
        if subprocess.run(install, capture_output=True).returncode:
            return not_checked(f"npm cannot fetch {COMPILER}")
    config = FOLDER / "tsconfig.json"
    config.write_text(
        json.dumps({"compilerOptions": OPTIONS, "include": [f"{PAGE.as_posix()}/js/**/*.js"]})
    )
    checked = subprocess.run(
        [node, PROGRAM, "--project", config, "--pretty", "false"],
        cwd=PAGE,
        capture_output=True,
        text=True,
    )
    problems = of_ours(checked.stdout.splitlines())
    for line in problems:
        print(line)
    if checked.returncode and not checked.stdout:
        print(checked.stderr or f"{COMPILER} ended with code {checked.returncode}")
        return 1
    return 1 if problems else 0


def of_ours(lines: list[str]) -> list[str]:
    """The lines that are about our modules; a message goes on in lines that are indented."""
    kept, is_ours = [], False
    for line in lines:
        if not line.startswith(" "):
            is_ours = not line.startswith("vendor/")
        if is_ours:
            kept.append(line)
    return kept


def not_checked(why: str) -> int:
    """Say that the types were not checked; returns the exit code."""
    print(f"the types of the page's modules are not checked: {why}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
