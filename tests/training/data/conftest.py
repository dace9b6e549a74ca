import json

import pytest

from gossamer.training.data import DataSettings, load_data

from tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def write(tmp_path):
    """Write rows (JSON lines) or raw text or bytes to a file; gives its path as a string."""

    def write_file(content, name="rows.jsonl"):
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        if isinstance(content, str):
            content = content.encode("utf-8")
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write_file


@pytest.fixture
def load(tokenizer):
    """Load a file with the tiny tokenizer; settings by keyword."""

    def load_file(data, *, seed=0, tokenizer=tokenizer, **settings):
        return load_data(DataSettings(data=data, **settings), tokenizer, seed=seed)

    return load_file


@pytest.fixture
def trained():
    """The stretches of an example that count in the loss, as text."""

    def texts(tokenizer, example):
        runs, last = [], False
        for token, label in zip(example.input_ids, example.labels, strict=True):
            if label != -100:
                assert label == token
                if not last:
                    runs.append([])
                runs[-1].append(token)
            last = label != -100
        return [tokenizer.decode(run) for run in runs]

    return texts
