"""Tune, compare and talk in the browser: a server with jobs and the page, for one person.

gossamer studio smollm2-135m                     prints the link to open
gossamer studio smollm2-135m --adapters runs/    ... and serves every adapter in runs/ too
gossamer studio smollm2-135m --data-dir DIR      keeps uploads, jobs and adapters in DIR
gossamer studio smollm2-135m --keys keys.yaml --host 0.0.0.0
                                                 for several people, who log in with keys

It is `gossamer serve --jobs --studio`. The link opens one session, once; the session lasts 12 hours
and may do everything. Jobs go on exactly where they were when the server is started again.
"""

import argparse

from gossamer.cli import serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `gossamer serve`, of which jobs and page are on."""
    serve.add_arguments(parser, switches=False)
    parser.set_defaults(jobs=True, studio=True)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    return serve.run(args)
