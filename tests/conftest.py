import gc
import os

# Tests never reach for a hub, and small matrices gain nothing from many threads.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Nor for anything over TLS: clients of HTTP would each read all authorities, 40 ms of a processor.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = os.path.dirname(__file__)
# Triton looks at it when it is imported: GPU kernels are interpreted on this CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

from tiny import make_tiny_model

_last_file = None


def pytest_runtest_setup(item):
    """Before each file, take what is in memory out of later garbage collections.

    A run of training collects several times, and each time all that heavy libraries left would be
    looked through again.
    """
    global _last_file
    if item.path == _last_file:
        return
    _last_file = item.path
    # A server that has ended in this process has let everything go, and to look costs a second.
    if gc.get_freeze_count():
        gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a tiny random Llama with tokenizer and chat template."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Tiny models of a family with an adapter of every kind, made when first asked for."""
    # It needs PEFT, which the tests of the base install do without.
    from kinds_case import Kinds

    made = {}

    def family(name):
        if name not in made:
            made[name] = Kinds(tmp_path_factory.mktemp(name), name)
        return made[name]

    return family
