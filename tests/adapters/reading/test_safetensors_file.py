"""Our reader of safetensors files against the library's."""

import json
import os
import random
import time
from types import SimpleNamespace

import pytest
import torch
from headed_files import file_of
from safetensors import SafetensorError
from safetensors.torch import load, save

from gossamer.adapters import digest as identity
from gossamer.adapters.inspect import digest
from gossamer.adapters.reading import safetensors_file
from gossamer.adapters.reading.safetensors_file import read_safetensors
from gossamer.adapters.reading.safetensors_header import DTYPES
from gossamer.adapters.weights import read_weights, require_finite
from gossamer.errors import AdapterFormatError, UnsupportedAdapterError


def tensor(dtype, *shape):
    bits = torch.randint(0, 2, (*shape, dtype.itemsize), dtype=torch.uint8)
    return bits.view(dtype).reshape(shape)


@pytest.fixture
def read(tmp_path):
    def of(content):
        path = tmp_path / "file.safetensors"
        path.write_bytes(content)
        return read_safetensors(path)

    return of


def test_every_number_format_and_odd_shapes(read):
    tensors = {f"t.{code}": tensor(dtype, 3, 5) for code, dtype in DTYPES.items()}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "ünï": torch.ones(1)}
    file = read(save(tensors, {"made": "here"}))
    found = file.tensors()
    assert found.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected)
    assert file.header.metadata == {"made": "here"}
    assert file.elements() is None


def test_elements_are_all_of_them(read):
    file = read(save({"a": torch.arange(6.0).view(2, 3), "b": torch.full((2,), 7.0)}))
    assert file.elements().tolist() == [0, 1, 2, 3, 4, 5, 7, 7]


def test_no_memory_but_that_of_the_data(read):
    file = read(save({"a": torch.ones(8, 8), "b": torch.ones(8)}))
    storages = {t.untyped_storage().data_ptr() for t in file.tensors().values()}
    assert storages == {file.data.untyped_storage().data_ptr()}


def test_a_tensor_between_two_elements(read):
    """Allowed by the format: 4-byte numbers behind a single byte."""
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    content = file_of(header, b"\x07" + torch.tensor([1.5, -2.0]).numpy().tobytes())
    assert torch.equal(load(content)["b"], torch.tensor([1.5, -2.0]))
    assert torch.equal(read(content).tensors()["b"], torch.tensor([1.5, -2.0]))


class TestConclusions:
    """What follows from a header alone is worked out once for files that have the same."""

    def test_files_that_say_the_same_share_a_header(self, read):
        one, two = (read(save({"a": torch.full((2,), value)})).header for value in (1.0, 2.0))
        other = read(save({"a": torch.ones(3)})).header
        assert one is two is not other

    def test_once_for_each_key(self, read):
        header = read(save({"a": torch.ones(5)})).header
        answers = iter(range(100))
        assert [header.once(key, lambda: next(answers)) for key in "xyxy"] == [0, 1, 0, 1]

    def test_an_error_is_not_remembered(self, read):
        header = read(save({"a": torch.ones(6)})).header
        with pytest.raises(ZeroDivisionError):
            header.once("x", lambda: 1 // 0)
        assert header.once("x", lambda: 7) == 7

    def test_they_do_not_pile_up(self, read):
        header = read(save({"a": torch.ones(7)})).header
        for key in range(1000):
            assert header.once(key, lambda key=key: [key]) == [key]
        assert len(header._conclusions) < 100


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = {
    "nothing": b"",
    "seven bytes": b"1234567",
    "header longer than the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "no JSON": file_of(b"{"),
    "a list": file_of([]),
    "UTF-16": file_of(json.dumps({"a": GOOD}).encode("utf-16"), bytes(8)),
    "deep": file_of(b"[" * 100_000),
    "name twice": file_of(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"1",
    ),
    "half a character": file_of({"\ud800": GOOD}, bytes(8)),
    "metadata": file_of({"__metadata__": {"a": 1}}),
    "no shape": file_of({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "negative": file_of({"a": GOOD | {"shape": [-2]}}, bytes(8)),
    "fraction": file_of({"a": GOOD | {"shape": [2.0]}}, bytes(8)),
    "text": file_of({"a": GOOD | {"data_offsets": "08"}}, bytes(8)),
    "shape too large": file_of({"a": GOOD | {"shape": [3]}}, bytes(8)),
    "backwards": file_of({"a": GOOD | {"data_offsets": [8, 0]}}, bytes(8)),
    "gap": file_of({"a": GOOD | {"data_offsets": [1, 9]}}, bytes(9)),
    "overlap": file_of({"a": GOOD, "b": GOOD | {"data_offsets": [4, 12]}}, bytes(12)),
    "too short": file_of({"a": GOOD}, bytes(7)),
    "too long": file_of({"a": GOOD}, bytes(9)),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused_as_the_library_does(read, content):
    if content != DAMAGED["name twice"]:  # of which the library takes the last
        with pytest.raises((SafetensorError, TypeError)):
            load(content)
    with pytest.raises(AdapterFormatError, match="is truncated or damaged: "):
        read(content)


def test_unknown_number_format(read):
    content = file_of({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, bytes(2))
    with pytest.raises(
        UnsupportedAdapterError, match="tensor a is stored as 'F8_E4M3'; save it as"
    ):
        read(content)


def test_a_folder_in_its_place(tmp_path):
    with pytest.raises(AdapterFormatError, match=r"cannot read .*: Is a directory"):
        read_safetensors(tmp_path)


def test_what_is_accepted_is_what_the_library_reads(read):
    """Files with a few bytes changed, most of them in the header."""
    rng = random.Random(0)
    content = save({"a": tensor(torch.float32, 2, 3), "b": tensor(torch.int16, 4)}, {"k": "v"})
    header_end = 8 + int.from_bytes(content[:8], "little")
    accepted = refused = 0
    for _ in range(3000):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 3])):
            place = (
                rng.randrange(8, header_end) if rng.random() < 0.8 else rng.randrange(len(content))
            )
            changed[place] = rng.choice(b'0123456789,:"[]{} ab\x00\xff')
        try:
            found = read(bytes(changed)).tensors()
        except (AdapterFormatError, UnsupportedAdapterError):
            refused += 1
            continue
        accepted += 1
        expected = load(bytes(changed))
        assert found.keys() == expected.keys()
        for name, t in expected.items():
            assert found[name].dtype == t.dtype
            assert found[name].shape == t.shape
            assert found[name].view(torch.uint8).equal(t.view(torch.uint8))
    assert accepted > 100
    assert refused > 100


class TestFindings:
    """What was found out about a file is used again only while the file is the same."""

    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "poet"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
        return folder

    @staticmethod
    def write(folder, value, *, age):
        """Weights that were last changed `age` seconds ago, as their stamp tells."""
        path = folder / "adapter_model.safetensors"
        path.write_bytes(save({"x": torch.full((4,), value)}))
        changed = time.time() - age
        os.utime(path, (changed, changed))

    @pytest.fixture
    def hashed(self, monkeypatch):
        """How often contents were hashed. Times of change (ctime), which no program can set, are
        taken to be those of the last writing (mtime)."""
        calls = []
        real = identity._hash
        monkeypatch.setattr(identity, "_hash", lambda *given: calls.append(1) or real(*given))
        fstat = os.fstat

        def as_written(number):
            status = fstat(number)
            names = ("st_dev", "st_ino", "st_mode", "st_size", "st_mtime_ns")
            known = {name: getattr(status, name) for name in names}
            return SimpleNamespace(**known, st_ctime_ns=status.st_mtime_ns)

        monkeypatch.setattr(safetensors_file.os, "fstat", as_written)
        return calls

    def test_an_unchanged_file_is_hashed_once(self, folder, hashed):
        self.write(folder, 1.0, age=60)
        assert digest(folder) == digest(folder)
        assert len(hashed) == 1

    def test_a_file_that_was_just_written_is_hashed_each_time(self, folder, hashed):
        self.write(folder, 1.0, age=0)
        assert digest(folder) == digest(folder)
        assert len(hashed) == 2

    def test_other_weights(self, folder, hashed):
        self.write(folder, 1.0, age=60)
        first = digest(folder)
        self.write(folder, 2.0, age=50)
        assert digest(folder) != first

    def test_another_config(self, folder, hashed):
        self.write(folder, 1.0, age=60)
        first = digest(folder)
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
        assert digest(folder) != first

    def test_a_bad_file_stays_bad(self, folder, hashed):
        self.write(folder, float("nan"), age=60)
        for _ in range(2):
            with pytest.raises(AdapterFormatError, match="NaN"):
                require_finite("poet", read_weights(folder))
        self.write(folder, 1.0, age=50)
        require_finite("poet", read_weights(folder))
