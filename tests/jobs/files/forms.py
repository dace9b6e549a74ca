"""Multipart forms as clients write them."""

BOUNDARY = b"0123456789abcdef"
KIND = f"multipart/form-data; boundary={BOUNDARY.decode()}"
ROWS = b'{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n'


def form(content=ROWS, *, name="rows.jsonl", field="file", fields=(("purpose", "fine-tune"),)):
    """The body of an upload."""
    parts = [
        b'Content-Disposition: form-data; name="%b"\r\n\r\n%b' % (key.encode(), value.encode())
        for key, value in fields
    ]
    if content is not None:
        parts.append(
            b'Content-Disposition: form-data; name="%b"; filename="%b"\r\n'
            b"Content-Type: application/octet-stream\r\n\r\n%b"
            % (field.encode(), name.encode(), content)
        )
    joined = b"".join(b"--%b\r\n%b\r\n" % (BOUNDARY, part) for part in parts)
    return joined + b"--%b--\r\n" % BOUNDARY


def received(receiver, body, size=7):
    """What the receiver makes of a body that comes in pieces."""
    try:
        for start in range(0, len(body), size):
            receiver.write(body[start : start + size])
        return receiver.finish()
    finally:
        receiver.close()


def add(files, content=ROWS, tenant="a", **options):
    """A file of the service, sent as a form."""
    limit = options.pop("max_total", None)
    body = form(content, **options)
    return files.add(tenant, received(files.receive(KIND, len(body)), body, 4096), max_total=limit)
