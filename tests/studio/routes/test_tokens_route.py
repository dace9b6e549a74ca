"""The tokens of a file, for those whose file it is."""

from gossamer.jobs.files.token_counts import TokenCounts

ROWS = b'{"prompt": "a", "completion": "b"}\n'
FOUND = {"is_all": True, "rows": 1, "lengths": [[7, 1]], "tokens": 7, "learnt": 2}


def upload(client):
    form = {"file": ("rows.jsonl", ROWS), "purpose": (None, "fine-tune")}
    return client.post("/v1/files", files=form).json()["id"]


def test_the_tokens_of_a_file_are_told(serve, monkeypatch):
    asked = []

    def count(self, path, name):
        asked.append((self._model.name, path.read_bytes(), name))
        return iter([FOUND])

    monkeypatch.setattr(TokenCounts, "_count", count)
    with serve(page=True) as client:
        file_id = upload(client)
        told = client.get(f"/studio/api/files/{file_id}/tokens").json()
        assert told == {"object": "file.tokens", "file_id": file_id, **FOUND}
    assert asked == [("model", ROWS, "file.jsonl")]


def test_what_cannot_be_counted_is_a_sentence(serve, monkeypatch):
    monkeypatch.setattr(TokenCounts, "_count", lambda *args: iter([{"error": "no tokenizer"}]))
    with serve(page=True) as client:
        answer = client.get(f"/studio/api/files/{upload(client)}/tokens")
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "no tokenizer"


def test_files_of_others_do_not_exist(serve, keys, monkeypatch):
    monkeypatch.setattr(TokenCounts, "_count", lambda *args: iter([FOUND]))
    owner, other = keys("owner", "--train"), keys("other", "--train")
    with serve(page=True, key=owner, keys=keys.path) as client:
        path = f"/studio/api/files/{upload(client)}/tokens"
        assert client.get(path).status_code == 200
        headers = {"Authorization": f"Bearer {other}"}
        assert client.get(path, headers=headers).status_code == 404
        assert client.get("/studio/api/files/file-none/tokens").status_code == 404
