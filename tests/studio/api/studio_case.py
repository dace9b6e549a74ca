"""What the tests of the page's routes share: jobs that a test sets, and events that it reads."""

import json


class SetJobs:
    """News that a test sets."""

    def __init__(self):
        self.found = []
        self.lines = {}
        self.version = "1"

    def jobs(self, caller):
        return [{**job} for job in self.found]

    def metrics(self, caller, job_id):
        return self.version, list(self.lines.get(job_id, ()))


def events_in(text):
    """The (event, data) of a stream of server-sent events."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in lines:
            found.append((lines.get("event"), json.loads(lines["data"])))
    return found
