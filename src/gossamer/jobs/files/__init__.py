"""Uploads: received in a stream, kept once under the hash of their bytes, checked by a process of
their own.

The order of a file, by modules:

    scratch      a file that is being written, hashed as it grows
    form         the body of an upload, a multipart form, in pieces of any size
    names        what an upload may be called
    blobs        the bytes of all files, each content once
    report       what is in a file: rows, format, the first problems
    likeness     what in it repeats, and what it has in common with another file
    desk         runs the check of a file in a process with limits (`check`)
    token_counts has the tokens of a file counted, in a process of its own (`tokens`)
    preview      shows rows as the model sees them, by a process that stays (`row_reader`)
    service      files and uploads of tenants: added, joined, deleted
    sweeper      removes what has expired, and bytes that nothing refers to
"""

REPORT_VERSION = 3
"""The version of the report on a file; one of another version is made again."""
