"""Runs one small step before the first request, so that none waits for kernels to be compiled."""

import sys
from pathlib import Path

import numpy as np

from gossamer.kernels.compile import compile_kernels
from gossamer.kernels.grouped_lora import LoraTable, RowFormat
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.messages import Request, SamplingParams
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.packing.resident import Resident
from gossamer.serving.runner.model_runner import ModelRunner
from gossamer.serving.runner.sampler import SamplingState
from gossamer.serving.scheduler.step import ScheduledChunk


def warm_up(runner: ModelRunner) -> None:
    """Run one token with an adapter of rank 0, and the kernels of the other kinds.

    Numba keeps what it compiles on disk; if it has to compile, that is told.
    """
    if runner.model.backend != "cpu":
        _run_one_token(runner)
        return
    from gossamer.kernels.cpu import on_compilation

    with on_compilation(_tell_of_compilation):
        compile_kernels()
        _run_one_token(runner)


def _tell_of_compilation() -> None:
    print(
        "gossamer: compiling kernels for this processor; done once, half a minute or so",
        file=sys.stderr,
        flush=True,
    )


def _run_one_token(runner: ModelRunner) -> None:
    num_modules = len(runner.model.modules.ids)
    table = LoraTable(
        first_row=np.zeros(num_modules, dtype=np.int64),
        rank=np.zeros(num_modules, dtype=np.int32),
        scale=np.zeros(num_modules, dtype=np.float32),
        offsets=np.zeros(1, dtype=np.int64),
        row_scale=np.ones(1, dtype=np.float32),
        format=RowFormat.FLOAT32,
    )
    entry = AdapterEntry(name="warm-up", path=Path(), signature=())
    entry.start_reading()
    entry.finish_reading(table)
    entry.start_placing([])
    entry.finish_placing(Resident(lora=table), 0.0)
    sequence = Sequence(
        request=Request(request_id="warm-up", prompt_token_ids=(0,)),
        adapter=entry,
        max_new_tokens=1,
        token_ids=[0],
        blocks=[0],
    )
    state = SamplingState(SamplingParams(), ())
    runner.launch([ScheduledChunk(sequence, 1)], lambda _: state).result()
