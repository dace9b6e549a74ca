"""Messages are one line of bounded length, whatever names and values they repeat."""

import pytest

from gossamer.errors import MAX_MESSAGE, AdapterFormatError, OverloadedError, RequestError, one_line
from gossamer.serving.http.errors import ApiError, to_api_error


@pytest.mark.parametrize(
    "name", ["a\nb", "a\r\n\r\nb", "\0", "\x1b[31m", "\u202eabc", "\u2028", "\ud800"]
)
@pytest.mark.parametrize(
    "make",
    [
        AdapterFormatError,
        lambda text: OverloadedError(text, retry_after=1),
        lambda text: RequestError(text, param=text),
        lambda text: ApiError(400, text, param=text),
    ],
)
def test_what_prints_nothing_becomes_an_escape(make, name):
    error = make(f"tensor {name} is odd")
    assert str(error).isprintable()
    assert str(error) == f"tensor {ascii(name)[1:-1]} is odd"
    answer = to_api_error(error, "some-id")
    assert answer.message == str(error)
    assert answer.response().body


def test_words_of_other_languages_stay():
    assert one_line("Füße, 汉字, 😀, עברית") == "Füße, 汉字, 😀, עברית"


@pytest.mark.parametrize("letter", ["x", "\n"])
def test_the_middle_of_a_long_message_is_left_out(letter):
    message = str(AdapterFormatError(f"name {letter * 1_000_000} is too long; choose another"))
    assert len(message) <= MAX_MESSAGE
    assert message.startswith("name ")
    assert message.endswith("is too long; choose another")


def test_the_field_of_an_error_is_short_and_one_line():
    error = to_api_error(RequestError("odd", param="\n" + "x" * 100_000), "some-id")
    assert error.param is not None
    assert len(error.param) < 300
    assert error.param.isprintable()
