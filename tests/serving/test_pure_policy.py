"""Decisions over integers need no tensors: what is tested here loads neither torch nor numpy."""

import subprocess
import sys
from pathlib import Path

PURE = (
    "adapter_entry",
    "adapter_faults",
    "adapter_folder",
    "adapter_looks",
    "adapter_names",
    "adapter_paths",
    "adapter_reader",
    "adapter_status",
    "adapter_store",
    "admission",
    "bell",
    "block_pool",
    "daemon_threads",
    "door",
    "futures",
    "histogram",
    "hot_merge",
    "interface",
    "memory.block_keys",
    "memory.host_cache",
    "memory.prefix_cache",
    "memory.reclaim",
    "memory.residency",
    "memory.value",
    "messages",
    "outcomes",
    "request_checks",
    "scheduler",
    "scheduling.accounts",
    "scheduling.deadlines",
    "scheduling.fairness",
    "scheduling.forecast",
    "scheduling.hot_adapter",
    "scheduling.never_fits",
    "scheduling.prefetch",
    "scheduling.quotas",
    "scheduling.room",
    "scheduling.tenants",
    "scheduling.turns",
    "scheduling.waiting",
    "scheduling.walk",
    "sequence",
    "settings",
    "simulation.disk",
    "simulation.simulator",
    "simulation.step_model",
    "workload",
)


def test_policy_loads_no_tensors():
    imports = "; ".join(f"import gossamer.serving.{name}" for name in PURE)
    heavy = ("torch", "numpy", "transformers", "numba")
    code = f"{imports}; import sys; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_serving_6_policy_tests_run_where_torch_cannot_be_imported(tmp_path):
    """The tests of pool, store and scheduler themselves, but the long random ones."""
    here = Path(__file__).parent
    files = [
        "test_block_pool.py",
        "test_hot_merge.py",
        "test_scheduler.py",
        "test_scheduler_adapters.py",
        "scheduling",
        "memory",
    ]
    arguments = [
        "--noconftest",
        *("-q", "-p", "no:cacheprovider", "-k", "not random", "-o", f"pythonpath={here}"),
        *(str(here / name) for name in files),
    ]
    code = (
        "import sys, pytest\n"
        "for name in ('torch', 'numpy', 'transformers', 'numba'): sys.modules[name] = None\n"
        f"sys.exit(pytest.main({arguments}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=here.parents[1]
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
