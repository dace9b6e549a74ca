"""The body of an upload: what is accepted, in pieces of any size, and what is refused."""

import hashlib
import random

import pytest
from forms import BOUNDARY, KIND, ROWS, form, received

from gossamer.errors import JobError
from gossamer.jobs.files.form import FormReceiver


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def receiver(scratch, kind=KIND, max_bytes=10_000):
    return FormReceiver(
        kind, scratch, file_field="file", max_bytes=max_bytes, limit_name="--max-upload-mib"
    )


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 100_000])
def test_pieces_of_any_size_make_the_same_file(scratch, size):
    whole = received(receiver(scratch), form(name="näme.jsonl"), size)
    with whole.file:
        assert whole.filename == "näme.jsonl"
        assert whole.fields == {"purpose": "fine-tune"}
        assert whole.file.path.read_bytes() == ROWS
        assert whole.file.num_bytes == len(ROWS)
        assert whole.file.sha256 == hashlib.sha256(ROWS).hexdigest()
        assert whole.file.path.stat().st_mode & 0o777 == 0o600
    assert not list(scratch.iterdir())


def test_bytes_that_look_like_a_boundary_are_kept(scratch):
    content = b"\r\n--" + BOUNDARY[:-1] + b"\r\n--\r\n" + b"\r\n--" + BOUNDARY[:5] + b"\x00\xff"
    for size in (1, 5, 1000):
        with received(receiver(scratch), form(content), size).file as file:
            assert file.path.read_bytes() == content


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 71,
        'multipart/form-data; boundary="a\r\nb"',
        "multipart/mixed; boundary=x",
    ],
)
def test_a_body_without_a_usable_boundary_is_refused(scratch, kind):
    with pytest.raises(JobError) as caught:
        receiver(scratch, kind)
    assert caught.value.code == "invalid_form"


CASES = {
    "nothing": b"",
    "no file": form(None),
    "two files": form()[: -len(BOUNDARY) - 6] + form(),
    "a file under another name": form(field="data"),
    "a file in another field": form(None, fields=[("purpose", "x")]).replace(
        b'name="purpose"', b'name="purpose"; filename="a.jsonl"'
    ),
    "many fields": form(fields=[(f"f{n}", "x") for n in range(30)]),
    "a field twice": form(fields=[("purpose", "a"), ("purpose", "b")]),
    "a long field": form(fields=[("purpose", "x" * 1025)]),
    "a part without a name": form().replace(b'; name="purpose"', b""),
    "a part without headers": b"--%b\r\n\r\nx\r\n--%b--\r\n" % (BOUNDARY, BOUNDARY),
    "a name that is not UTF-8": form().replace(b"rows.jsonl", b"r\xff.jsonl"),
    "a field that is not UTF-8": form().replace(b"fine-tune", b"fine\xfftune"),
    "a long header": form().replace(b"octet-stream", b"x" * 5000),
    "many headers": form().replace(b"Content-Type", b"A: b\r\n" * 50 + b"Content-Type"),
    "another boundary": form().replace(BOUNDARY, b"other"),
    "a file that is too large": form(b"x" * 10_001),
    "text before the form": b"hello" + form(),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 4096])
def test_what_is_refused_leaves_nothing(scratch, case, size):
    with pytest.raises(JobError) as caught:
        received(receiver(scratch), CASES[case], size)
    assert caught.value.code in ("invalid_form", "file_too_large")
    assert "\n" not in str(caught.value)
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("cut", range(1, len(form()), 7))
def test_a_form_that_was_cut_is_refused(scratch, cut):
    # The last line end is nobody's loss.
    if cut < 3:
        return
    with pytest.raises(JobError):
        received(receiver(scratch), form()[:-cut])
    assert not list(scratch.iterdir())


def test_mutated_forms_are_refused_or_whole(scratch):
    """Whatever becomes of a body: an error of one sentence, or a file with its fields."""
    random.seed(7)
    whole, refused = form(), 0
    for _ in range(600):
        body = bytearray(whole)
        for _ in range(random.randint(1, 4)):
            place = random.randrange(len(body))
            match random.randrange(4):
                case 0:
                    body[place] = random.randrange(256)
                case 1:
                    del body[place : place + random.randint(1, 20)]
                case 2:
                    body[place:place] = random.randbytes(random.randint(1, 20))
                case _:
                    body[place:place] = body[: random.randint(1, 60)]
        code = None
        try:
            with received(receiver(scratch), bytes(body), random.choice([1, 13, 5000])).file:
                pass
        except JobError as error:
            code = error.code
        refused += code is not None
        assert code in (None, "invalid_form", "file_too_large")
        assert not list(scratch.iterdir())
    assert 100 < refused < 600
