"""What a run overrides of others' trainers: all that is private in one file, and still there."""

import inspect

import pytest

from gossamer.training.loop import preference_trainer, trainer_hooks
from gossamer.training.loop.preference_trainer import PreferenceTrainer
from gossamer.training.loop.trainer import RunTrainer

HOMES = {trainer_hooks.__name__, preference_trainer.__name__}


def private(cls):
    return {name for name in vars(cls) if name.startswith("_") and not name.startswith("__")}


def split(trainer):
    """Our classes among what `trainer` is made of, and the private names of all others."""
    ours = [cls for cls in inspect.getmro(trainer) if cls.__module__.startswith("gossamer.")]
    theirs = [cls for cls in inspect.getmro(trainer) if cls not in ours]
    return ours, set().union(*(private(cls) for cls in theirs))


@pytest.mark.parametrize("trainer", [RunTrainer, PreferenceTrainer])
def test_private_methods_of_trainers_are_overridden_in_their_home_alone(trainer):
    ours, names = split(trainer)
    found = {(cls.__module__, name) for cls in ours for name in private(cls) & names}
    assert {module for module, _ in found} <= HOMES, sorted(found)
    assert (trainer_hooks.__name__, "_save_checkpoint") in found


@pytest.mark.parametrize("trainer", [RunTrainer, PreferenceTrainer])
def test_what_is_overridden_is_what_the_library_calls(trainer):
    # An override of a name that is gone would be silently dead.
    _, names = split(trainer)
    assert private(trainer_hooks.RunHooks) - {"_abc_impl"} <= names
