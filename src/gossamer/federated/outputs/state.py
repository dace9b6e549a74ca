"""The state of a server on disk: a checkpoint after a round, and a file of what a round added to
the base, which stays."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from gossamer.federated.aggregation.tensors import FactorPair, Tensors
from gossamer.federated.server import ServerState
from gossamer.files import replacing, write_whole

MERGED = "merged"
"""The folder of what rounds added to the base."""
_STATE = "server.json"
_KINDS = ("tensors", "fixed", "start")


def write_state(folder: Path, state: ServerState) -> None:
    """Write all but `merged` into the checkpoint `folder`."""
    for kind in _KINDS:
        tensors: Tensors = getattr(state, kind)
        if tensors:
            save_file({n: t.contiguous() for n, t in tensors.items()}, folder / _file(kind))
    noted = {
        "round": state.round,
        "stage_since": state.stage_since,
        "draw_seed": state.draw_seed,
        "heard": state.heard,
        "changed": state.changed,
    }
    write_whole(folder / _STATE, json.dumps(noted))


def read_state(folder: Path, output: Path) -> ServerState:
    """Read the state from a checkpoint of the run in `output`."""
    noted = json.loads((folder / _STATE).read_text())
    held = {
        kind: load_file(folder / _file(kind)) if (folder / _file(kind)).exists() else {}
        for kind in _KINDS
    }
    merged = [_read_merged(output, number) for number in range(1, noted["round"] + 1)]
    return ServerState(
        held["tensors"],
        round=noted["round"],
        changed=noted["changed"],
        heard={int(client): number for client, number in noted["heard"].items()},
        merged=merged,
        stage_since=noted["stage_since"],
        draw_seed=noted["draw_seed"],
        fixed=held["fixed"],
        start=held["start"],
    )


def write_merged(output: Path, number: int, merged: dict[str, FactorPair]) -> None:
    """Write what the round `number` added to the base; nothing if it is nothing."""
    if not merged:
        return
    path = _merged_file(output, number)
    path.parent.mkdir(exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, pair in merged.items():
        tensors |= {f"{name}.A": pair.a.contiguous(), f"{name}.B": pair.b.contiguous()}
    with replacing(path) as scratch:
        save_file(tensors, scratch)


def _read_merged(output: Path, number: int) -> dict[str, FactorPair]:
    path = _merged_file(output, number)
    if not path.exists():
        return {}
    tensors = load_file(path)
    names = sorted({name.removesuffix(".A").removesuffix(".B") for name in tensors})
    return {name: FactorPair(tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in names}


def _merged_file(output: Path, number: int) -> Path:
    return output / MERGED / f"round-{number}.safetensors"


def _file(kind: str) -> str:
    return f"server-{kind}.safetensors"
