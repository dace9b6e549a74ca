"""The states of an adapter: each is left only by the moves that lead on from it."""

import re
from pathlib import Path

import pytest
from policy_fakes import entry_in

import gossamer.serving
from gossamer.errors import UnknownModelError
from gossamer.serving.core.adapter_state import MOVES, AdapterState

ENDS = [AdapterState.REFUSED, AdapterState.REPLACED, AdapterState.UNREADABLE, AdapterState.REMOVED]
WAY = [state for state in AdapterState if state not in ENDS]


@pytest.mark.parametrize("state", WAY, ids=lambda state: state.value)
def test_an_adapter_moves_only_where_its_state_leads(state):
    moves = {
        AdapterState.LOADING: lambda entry: entry.start_reading(),
        AdapterState.PLACING: lambda entry: entry.start_placing([]),
        AdapterState.RESIDENT: lambda entry: entry.finish_placing("table", 0.0),
    }
    for end in ENDS:
        moves[end] = lambda entry, end=end: entry.end(end, UnknownModelError("gone"))
    for to, move in moves.items():
        entry = entry_in(state)
        if to in MOVES[state]:
            move(entry)
            assert entry.state is to
        else:
            with pytest.raises(AssertionError, match="does not lead to"):
                move(entry)
            assert entry.state is state


def test_an_adapter_that_leaves_its_blocks_goes_back_to_what_host_memory_has_of_it():
    kept = entry_in(AdapterState.HOST)
    kept.start_placing([3, 4])
    assert kept.leave_blocks() == [3, 4]
    assert (kept.state, kept.blocks, kept.table) == (AdapterState.HOST, [], None)
    dropped = entry_in(AdapterState.RESIDENT)
    dropped.drop_rows()
    assert dropped.state is AdapterState.RESIDENT
    dropped.leave_blocks()
    assert dropped.state is AdapterState.REGISTERED


def test_removed_is_the_last_state_of_all():
    assert not MOVES[AdapterState.REMOVED]
    assert MOVES.keys() == set(AdapterState)


def test_no_other_module_changes_a_state():
    root = Path(gossamer.serving.__file__).parent
    wrong = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"\._?state = ", path.read_text()) and path.name != "adapter_state.py"
    ]
    assert not wrong
