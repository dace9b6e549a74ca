"""PEFT's own tests over Gossamer's tuners: `python tests/peft_suite [OPTIONS OF PYTEST...]`.

The tests are those of the installed version of PEFT, taken from its source distribution, which pip
fetches and whose hash pip checks; they are never part of this repository. They run on tiny models
made from configurations, so no hub is asked. Everything lies in build/peft-suite: `table.md` is the
result. The exit status is 1 if a test fails that `expected.py` does not list.

`python tests/peft_suite -k Llama test_decoder_models.py` runs a part, `--all-peft` beside it runs
more of PEFT's own tuners for comparison, and `--report` prints the tables of the run before.
"""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE.parents[1] / "build" / "peft-suite"
FILES = (
    "test_custom_models.py", "test_decoder_models.py", "test_config.py", "test_low_level_api.py",
    "test_seq_classifier.py", "test_encoder_decoder_models.py",
    "test_feature_extraction_models.py", "test_quantization.py",
)  # fmt: skip
OWN_OPTIONS = {"--all-peft": "PEFT_SUITE_ALL_PEFT"}


def fetch_tests(release: str) -> Path:
    """Unpack the tests of a release of PEFT below WORK; returns the folder that holds `tests`."""
    folder = WORK / f"peft-{release}"
    if (folder / "tests" / "__init__.py").is_file():
        return folder
    archive = WORK / f"peft-{release}.tar.gz"
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "peft",
         "--dest", WORK, f"peft=={release}"],
        check=True,
    )  # fmt: skip
    with tarfile.open(archive) as packed:
        wanted = [m for m in packed.getmembers() if m.name.startswith(f"{folder.name}/tests/")]
        packed.extractall(WORK, members=wanted, filter="data")
    (folder / "tests" / "__init__.py").touch()
    return folder


def run_tests(source: Path, results: Path, options: list[str]) -> int:
    """Run pytest over PEFT's tests and return its exit status."""
    tests = source / "tests"
    chosen = [tests / option if (tests / option).is_file() else option for option in options]
    if not any(isinstance(option, Path) for option in chosen):
        chosen += [tests / name for name in FILES]
    results.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
        "PEFT_SUITE_TESTS_PARENT": str(source),
        "PEFT_SUITE_RESULTS": str(results),
    }
    # Ids of the hub are relative paths in the folder of the models.
    command = [
        sys.executable, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider", "-c", os.devnull,
        "--rootdir", source, "-q", "--no-header", "-W", "ignore", "--tb=no", *chosen,
    ]  # fmt: skip
    return subprocess.run(command, cwd=WORK / "models", env=environment, check=False).returncode


def main(arguments: list[str]) -> int:
    """Run the tests, unless only the report is wanted, and write the tables."""
    import report

    results = WORK / "results.jsonl"
    if "--report" not in arguments:
        import tiny_models

        WORK.mkdir(parents=True, exist_ok=True)
        source = fetch_tests(version("peft"))
        tiny_models.build(WORK / "models")
        for option, name in OWN_OPTIONS.items():
            if option in arguments:
                arguments.remove(option)
                os.environ[name] = "1"
        status = run_tests(source, results, arguments)
        if status not in (0, 1):
            print(f"pytest ended with {status}; its message is above", file=sys.stderr)
            return status
    text, unexpected = report.tables(results)
    (WORK / "table.md").write_text(text, encoding="utf-8")
    print(text)
    if unexpected:
        print(f"{unexpected} failures are not listed in tests/peft_suite/expected.py")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
