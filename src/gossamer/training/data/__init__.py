"""Training data: read, recognise the format, check, turn into token ids with exact loss masks.

`load_data` is the way in; `read_rows` stops before tokens, for who shares rows out. The stages,
one file each:

    source, files, hub    a name to numbered raw rows; bad lines are rows too, with a reason
    formats               the columns to one of five formats
    check                 a raw row to a conversation, a prompt with its completion, a text, or two
                          answers to one prompt
    render                that to pieces of text, each trained on or not
    encode                pieces to token ids and labels, cut to the maximum length
    load, report          all of it in order, held-out rows, and what there is to tell
"""

from gossamer.training.data.encode import Example, PreferencePair
from gossamer.training.data.load import load_data, read_rows
from gossamer.training.data.report import DataReport, EncodedData
from gossamer.training.data.settings import DataSettings

__all__ = [
    "DataReport",
    "DataSettings",
    "EncodedData",
    "Example",
    "PreferencePair",
    "load_data",
    "read_rows",
]
