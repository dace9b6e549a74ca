"""Which ranks are left, and the running statistics that decide it, as one resumable state."""

import json
from pathlib import Path
from typing import Any

from gossamer.methods.learnt_state import read_learnt, write_learnt

FILE = "ranks.json"
_STATISTICS = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class Allocation:
    """PEFT's rank allocator of one model, which PEFT itself does not save."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._tuner = model.base_model
        self._allocator = self._tuner.rankallocator
        self._config = model.active_peft_config

    def step(self, steps_done: int) -> None:
        """Take the gradients of the step just done into account, and ranks away if it is time."""
        last = self._config.total_step - self._config.tfinal
        if steps_done == last and not self._allocator.ipt:
            # A run of one step: PEFT would allocate by statistics that it has not begun.
            self._allocator.update_ipt(self._tuner.model)
        self._tuner.update_and_allocate(steps_done)

    def write(self, folder: Path) -> None:
        """Write weights, statistics and ranks into `folder`."""
        more = {
            f"{kind}/{name}": value
            for kind in _STATISTICS
            for name, value in getattr(self._allocator, kind).items()
        }
        write_learnt(self._model, folder, more)
        (folder / FILE).write_text(json.dumps(self._config.rank_pattern))

    def read(self, folder: Path) -> None:
        """Go on from what `write` wrote."""
        more = read_learnt(self._model, folder)
        parameters = dict(self._tuner.model.named_parameters())
        for kind in _STATISTICS:
            values = {k.partition("/")[2]: v for k, v in more.items() if k.startswith(f"{kind}/")}
            setattr(
                self._allocator,
                kind,
                {name: value.to(parameters[name].device) for name, value in values.items()},
            )
        self._config.rank_pattern = json.loads((folder / FILE).read_text())
