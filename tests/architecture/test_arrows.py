"""Who may import whom: the rooms of the package, and the third-party packages' homes."""

import re
from graphlib import TopologicalSorter

import pytest
from house import PACKAGE, Source, folders, sources

BOTTOM = {
    "children",
    "errors",
    "extras",
    "files",
    "machine",
    "ray_token",
    "settings",
    "sqlite",
    "version",
}
# Which rooms each room may import. What is missing here is forbidden.
ARROWS: dict[str, set[str]] = {
    "children": set(),
    "errors": set(),
    "extras": {"errors"},
    "files": {"errors"},
    "machine": set(),
    "ray_token": {"errors"},
    "__main__": {"cli"},
    "settings": {"errors"},
    "sqlite": set(),
    "version": set(),
    "basemodel": BOTTOM | {"adapters"},
    "adapters": BOTTOM,
    "kernels": BOTTOM,
    "methods": BOTTOM | {"adapters", "basemodel", "kernels"},
    "tuners": {"basemodel", "methods"},
    "sparsity": BOTTOM | {"adapters", "kernels"},
    "federated": BOTTOM | {"adapters", "basemodel", "methods", "training"},
    "training": BOTTOM | {"adapters", "basemodel", "kernels", "methods", "sparsity"},
    "serving": BOTTOM | {"adapters", "basemodel", "kernels"},
    "cluster": BOTTOM | {"adapters", "basemodel", "kernels", "serving"},
    "llm": BOTTOM | {"basemodel", "cluster", "serving"},
    "chat": BOTTOM | {"adapters", "serving"},
    "merging": BOTTOM | {"adapters", "basemodel"},
    "conversion": BOTTOM | {"adapters", "basemodel", "merging", "methods", "tuners"},
    "jobs": BOTTOM
    | {"adapters", "basemodel", "conversion", "merging", "methods", "training", "verification"},
    "studio": BOTTOM | {"adapters", "jobs", "serving"},
    "evaluation": BOTTOM | {"adapters", "llm", "serving"},
    "verification": BOTTOM
    | {"adapters", "basemodel", "methods", "serving", "training", "tuners", "llm"},
    "cli": BOTTOM
    | {
        "adapters",
        "basemodel",
        "chat",
        "cluster",
        "conversion",
        "jobs",
        "methods",
        "serving",
        "sparsity",
        "studio",
        "training",
    }
    | {"evaluation", "federated", "verification"},
}
# Where a third-party package may be imported: a pattern on the path below src/gossamer.
HOMES = {
    "peft": r"(conversion|methods|training|verification)/",
    "trl": r"(methods|training)/",
    "datasets": r"(methods|training)/",
    "fastapi": r"(serving/http|studio)/|cluster/replicas/status\.py$",
    "uvicorn": r"serving/http/",
    "starlette": r"(serving/http|studio)/|cluster/replicas/status\.py$",
    "prometheus_client": r"serving/http/",
    "numba": r"(.*/)?cpu\.py$|kernels/tiles/",
    "llvmlite": r"(.*/)?cpu\.py$|kernels/tiles/",
    "sqlalchemy": r"jobs/store/|cluster/published/(asked|catalog|database)\.py$|^sqlite\.py$",
    "alembic": r"jobs/store/",
    "fsspec": r"cluster/published/store\.py$",
    "psycopg": r"jobs/store/",
    "python_multipart": r"jobs/files/",
    "llguidance": r"serving/structured/",
    "opentelemetry": r"serving/http/calls/traces\.py$",
    "re2": r"adapters/patterns\.py$",
    "triton": r"(.*/)?triton_kernels\.py$",
    "ray": r"cluster/replicas/",
    "lm_eval": r"evaluation/",
    "flwr": r"federated/flower/",
    "flashinfer": r"kernels/paged_attention/flashinfer\.py$",
}


# Serving is handed what it needs of other processes.
DISTRIBUTED = r"(cluster/tensor_parallel|methods|training)/"


def _rooms_of(source: Source) -> set[str]:
    parts = (name.split(".") for name in source.imports)
    rooms = {p[1] for p in parts if p[0] == "gossamer" and len(p) > 1}
    return {room for room in rooms if (PACKAGE / room).is_dir() or room in BOTTOM}


def test_rooms_import_only_what_the_arrows_allow():
    wrong = [
        f"{source.name} imports {room}"
        for source in sources()
        if source.room  # the package's own __init__ only names the public names
        for room in _rooms_of(source) - ARROWS.get(source.room, set()) - {source.room}
    ]
    assert not wrong, wrong


# What only the processes of jobs may import: a server must not load it.
OF_WORKERS = {"conversion", "merging", "verification"}


def test_only_workers_carry_out_what_jobs_ask_for():
    wrong = [
        f"{source.name} imports {room}"
        for source in sources()
        if source.room == "jobs" and not source.name.startswith("jobs/worker/")
        for room in _rooms_of(source) & OF_WORKERS
    ]
    assert not wrong, wrong


def test_every_room_has_its_arrows():
    rooms = {path.name for path in folders() if path.parent == PACKAGE}
    assert rooms <= ARROWS.keys(), f"no arrows for {rooms - ARROWS.keys()}"
    list(TopologicalSorter(ARROWS).static_order())


@pytest.mark.parametrize("package", HOMES)
def test_third_party_packages_stay_in_their_rooms(package):
    wrong = [
        source.name
        for source in sources()
        if any(name.split(".")[0] == package for name in source.imports)
        and not re.match(HOMES[package], source.name)
    ]
    assert not wrong, f"{package} is imported by {wrong}"


def test_serving_knows_no_process_groups():
    wrong = [
        source.name
        for source in sources()
        if any(name.startswith("torch.distributed") for name in source.imports)
        and not re.match(DISTRIBUTED, source.name)
    ]
    assert not wrong, wrong


def test_only_what_serves_reaches_http():
    wrong = [
        source.name
        for source in sources()
        if any(name.startswith("gossamer.serving.http") for name in source.imports)
        and not source.name.startswith(("serving/http/", "studio/", "cluster/replicas/"))
        and source.name not in ("cli/serve.py", "cli/parts/served_jobs.py", "cli/cluster/serve.py")
    ]
    assert not wrong, wrong
