import os

# Tests never reach for a hub, and small matrices gain nothing from many threads.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

from tiny import make_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a tiny random Llama with tokenizer and chat template."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")
