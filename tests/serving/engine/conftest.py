"""What tests of the engine share."""

import pytest

from tiny import make_lora


@pytest.fixture
def shelf(tmp_path, tiny_model):
    """A root with two adapters below `shelf/`, which are not served by themselves."""
    for seed, name in enumerate(("one", "two")):
        make_lora(tmp_path / "root" / "shelf" / name, tiny_model, rank=4, seed=seed)
    return tmp_path / "root"
