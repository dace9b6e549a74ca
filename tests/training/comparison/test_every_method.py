"""Every method can be compared: trained, scored in this process, its replies batched."""

import pytest

from gossamer.methods import names

# What the shape of the tiny model asks for.
MORE = {"smt": ":block_size=4"}

# One needs an extra, the other a model with biases.
LEFT_OUT = ("qlora", "bitfit")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_every_method_is_trained_and_scored(small):
    entries = [name + MORE.get(name, "") for name in names() if name not in LEFT_OUT]
    comparison = small(methods=entries, budget="steps=2")
    assert {entry.label: entry.failures for entry in comparison.entries} == {
        label: {} for label in entries
    }
    assert all(entry.score is not None for entry in comparison.entries)
