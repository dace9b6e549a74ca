"""Decisions over integers need no tensors: what is tested here loads neither torch nor numpy."""

import subprocess
import sys

PURE = (
    "adapter_entry",
    "adapter_folder",
    "adapter_store",
    "admission",
    "bell",
    "block_pool",
    "interface",
    "messages",
    "request_checks",
    "scheduler",
    "sequence",
    "settings",
)


def test_policy_loads_no_tensors():
    imports = "; ".join(f"import gossamer.serving.{name}" for name in PURE)
    heavy = ("torch", "numpy", "transformers", "numba")
    code = f"{imports}; import sys; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
