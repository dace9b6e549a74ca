import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    # On matrices this small, threads that wait for one another cost more than they bring.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A file of rows of three kinds."""
    from federated_runs import write_kinds

    return write_kinds(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture
def no_pictures(monkeypatch):
    for where in (
        "gossamer.training.run.draw_loss_curve",
        "gossamer.federated.coordinator.draw_rounds",
    ):
        monkeypatch.setattr(where, lambda *args, **options: None)
