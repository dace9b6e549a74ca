"""Results leave as zips that name no place of this machine, and come in as zips from elsewhere."""

import io
import json
import zipfile

import pytest

from gossamer.adapters.inspect import inspect
from gossamer.errors import BaseMismatchError

from tiny import make_lora

IMPORTS = "/studio/api/imports"


@pytest.fixture
def result(kept, settings, tiny_model):
    """The files of alice's model as a run leaves them, full of this machine's places."""
    run = settings.folder.job(kept.job).run
    model = settings.folder.root / "model"
    make_lora(run, tiny_model, rank=2, base_model_name_or_path=str(model))
    (run / "README.md").write_text(f"gossamer serve --model {model} --adapters {run.parent}\n")
    (run / "run.yaml").write_text(f"# Repeat it\nmodel: {model}\nextra: [/srv/secret/a.jsonl]\n")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    (run / "checkpoints" / "step-1").mkdir(parents=True)
    return run


def unpacked(answer):
    with zipfile.ZipFile(io.BytesIO(answer.content)) as found:
        assert found.testzip() is None
        return {name: found.read(name) for name in found.namelist()}


def zipped(folder, top="somebody-elses"):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for path in folder.iterdir():
            if path.is_file():
                made.write(path, f"{top}/{path.name}")
    return content.getvalue()


def send(client, content, name="parrot", **options):
    return client.post(IMPORTS, data={"name": name}, files={"file": ("a.zip", content)}, **options)


def test_a_result_is_downloaded_without_places_of_this_machine(kept, result, settings):
    kept.post(f"{kept.at}/alias", json={"alias": "pirate"})
    answer = kept.get("/studio/api/models/pirate/archive")
    assert answer.headers["content-disposition"] == 'attachment; filename="pirate.zip"'
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    files = unpacked(answer)
    assert sorted(files) == [
        "pirate/README.md",
        "pirate/adapter_config.json",
        "pirate/adapter_model.safetensors",
        "pirate/run.yaml",
        "pirate/step_metrics.csv",
    ]
    assert files["pirate/README.md"] == b"gossamer serve --model tiny --adapters .\n"
    assert files["pirate/run.yaml"] == b"# Repeat it\nmodel: tiny\nextra:\n- a.jsonl\n"
    assert json.loads(files["pirate/adapter_config.json"])["base_model_name_or_path"] == "tiny"
    assert files["pirate/step_metrics.csv"].splitlines()[1].startswith(b"1,2.5,")
    weights = (result / "adapter_model.safetensors").read_bytes()
    assert files["pirate/adapter_model.safetensors"] == weights
    assert not any(str(settings.folder.root).encode() in content for content in files.values())
    assert kept.get(f"{kept.at}/archive", **kept.as_bob).status_code == 404


def test_what_was_downloaded_is_imported_and_can_be_downloaded_again(kept, result, settings):
    archive = kept.get(f"{kept.at}/archive").content
    made = send(kept, archive).json()
    assert (made["alias"], made["organization_id"], made["job_id"]) == ("parrot", "alice", None)
    assert made["left_out"] == []
    link = settings.folder.link("parrot")
    assert inspect(link).digest == inspect(result).digest == made["digest"]
    assert kept.engine.controls[-1] == ("load", made["id"], None, False, False)
    again = unpacked(kept.get("/studio/api/models/parrot/archive"))
    assert "parrot/step_metrics.csv" in again
    assert kept.delete("/v1/models/parrot").json()["id"] == made["id"]
    assert not link.is_symlink()
    assert kept.post(f"/studio/api/models/{made['id']}/restore").json()["alias"] == "parrot"
    assert inspect(link).digest == made["digest"]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ("engine", 422, "made for another base"),
        ("pickle", 400, "can run code"),
        ("damage", 422, "pirate"),
        ("taken", 400, "'tiny' is taken"),
        ("no name", 400, "the field 'name' is missing"),
        ("odd name", 400, "'a/b' cannot be a model's name"),
        ("no zip", 400, "is no zip"),
    ],
)
def test_what_cannot_be_served_leaves_nothing(kept, result, settings, change, status, message):
    name = {"taken": "tiny", "no name": "", "odd name": "a/b"}.get(change, "pirate")
    if change == "engine":
        kept.engine.control_result = BaseMismatchError("made for another base")
    if change == "pickle":
        (result / "optimizer.pt").write_bytes(b"")
    if change == "damage":
        (result / "adapter_model.safetensors").write_bytes(b"x" * 50)
    content = b"x" * 100 if change == "no zip" else zipped(result)
    refused = send(kept, content, name=name)
    assert (refused.status_code, message in refused.text) == (status, True), refused.text
    assert str(settings.folder.root) not in refused.text
    assert list(settings.folder.imports.iterdir()) == []
    assert list(settings.folder.scratch.iterdir()) == []
    assert [path.name for path in settings.folder.served.iterdir()] == [kept.name]


def test_imports_count_against_the_storage_of_their_tenant(serve, keys, tmp_path, tiny_model):
    content = zipped(make_lora(tmp_path / "one", tiny_model, rank=2))
    limit = f"{1.5 * len(content) / 2**20:.4f}"
    with serve(key=keys("alice", "--train", "--storage-mib", limit), keys=keys.path) as client:
        assert send(client, content).status_code == 200
        refused = send(client, content, name="second")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "storage_exceeded")


def test_who_may_not_train_or_shows_no_key_imports_nothing(serve, keys):
    with serve() as client:
        refused = send(client, b"")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_key_required")
    with serve(key=keys("carol"), keys=keys.path) as client:
        assert send(client, b"").json()["error"]["code"] == "training_not_allowed"
