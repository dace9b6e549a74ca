"""Serve a base model and all adapters of a folder over HTTP, with OpenAI's interface.

gossamer serve smollm2-135m                                    the base model alone
gossamer serve smollm2-135m --adapters runs/                   ... and every adapter in runs/
gossamer serve smollm2-135m --adapters runs/mine               ... and this one
gossamer serve smollm2-135m --adapters runs/ --memory 2        with 2 GiB for texts and adapters
gossamer serve smollm2-135m --adapters runs/ --keys keys.yaml --host 0.0.0.0
                                                               for others, who need keys
gossamer serve smollm2-135m --jobs                             ... and fine-tune it over HTTP
gossamer serve smollm2-135m --jobs --studio                    ... with a page in the browser

Every adapter folder below the one given with --adapters is a model of its own, as is that folder
itself if it is an adapter: clients name it in `model`, or the base model by its own name. An
adapter that appears while the server runs is found at once. When it is ready it prints the address,
the models' names and a command to try.

Ctrl-C or SIGTERM lets running requests end first; a second one stops at once.
"""

import argparse
import json
import logging
import os
import shlex
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.cli.parts import served_jobs
from gossamer.cli.parts.options import Options
from gossamer.serving.core.interface import EngineInterface
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.settings import ServeSettings

if TYPE_CHECKING:
    from gossamer.serving.http.transport.signals import SignalWatch

KEY_VARIABLE = "GOSSAMER_API_KEY"
_SHOWN_NAMES = 8
"""Adapters that are named when the server is ready; /v1/models has them all."""

ENGINE = Options(
    ServeSettings,
    title="model and memory",
    names={"memory_gib": "memory", "host_cache_gib": "host-cache"},
    metavars={"model": "NAME", "adapters": "DIR", "memory_gib": "GiB", "host_cache_gib": "GiB"},
    word="model",
)
LIMITS = Options(AdapterLimits, title="reading untrusted adapters")
HTTP = Options(
    HttpSettings,
    title="HTTP",
    names={"api_keys": "api-key", "cors_origins": "cors-origin", "allowed_hosts": "allowed-host"},
    metavars={
        "host": "HOST",
        "api_keys": "KEY",
        "keys": "FILE",
        "cors_origins": "ORIGIN",
        "allowed_hosts": "NAME",
        "request_log": "FILE",
        "traces": "URL",
    },
)


def add_arguments(parser: argparse.ArgumentParser, *, switches: bool = True) -> None:
    """Declare one option for each setting of the engine, of the HTTP server, and of jobs, with
    `switches` for whether there are jobs and a page."""
    ENGINE.add_to(parser)
    LIMITS.add_to(parser)
    HTTP.add_to(parser)
    served_jobs.add_arguments(parser, switches=switches)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from gossamer.serving.http.transport.signals import SignalWatch

    with SignalWatch(until_exit=True) as watch:
        return _run(args, watch)


def _run(args: argparse.Namespace, watch: "SignalWatch") -> int:
    started = time.monotonic()
    engine_settings = ENGINE.read(args, adapter_limits=LIMITS.read(args))
    engine_settings = served_jobs.with_their_adapters(args, engine_settings)
    http_settings = HTTP.read(args, **keys_from_environment())
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")

    from gossamer.serving.core.tenants import unlimited
    from gossamer.serving.http.transport.server import bind, url
    from gossamer.serving.key_file import KeyFile

    key_file = KeyFile(http_settings.keys) if http_settings.keys else None
    from gossamer.cluster.tensor_parallel.start import follow_if_told

    follow_if_told(engine_settings)
    # The port first: a busy one is reported at once, and not after the model has been loaded.
    with (
        bind(http_settings.host, http_settings.port) as listener,
        served_jobs.open_jobs(args, http_settings) as jobs,
    ):
        if http_settings.is_public and not http_settings.needs_key:
            _warn_of_open_door(http_settings.host)
        from gossamer.cluster.tensor_parallel.start import start_engine

        # The server drains as at a signal, and then ends with an error.
        engine = start_engine(
            engine_settings,
            key_file.limits_of if key_file is not None else unlimited,
            on_lost=partial(os.kill, os.getpid(), signal.SIGTERM),
        )
        extensions = jobs.extensions(engine, engine_settings.model, key_file) if jobs else []

        from gossamer.serving.http.transport.server import run_server

        def announce() -> None:
            needs_key = http_settings.needs_key
            _announce(url(listener), engine, time.monotonic() - started, needs_key=needs_key)
            if jobs is not None and jobs.token is not None:
                _announce_page(url(listener), jobs.token)

        run_server(engine, http_settings, listener, announce, watch, extensions)
        engine.check()
    return 0


def _announce_page(url: str, token: str) -> None:
    # Behind the sign #, a browser sends it nowhere and no log has it.
    print(
        f"gossamer: page: {url}/studio/#token={token}\n"
        "gossamer: the link opens one session, once; who has it may do everything here",
        flush=True,
    )


def _announce(url: str, engine: EngineInterface, seconds: float, *, needs_key: bool) -> None:
    names = [adapter.name for adapter in engine.adapters() if adapter.state != "refused"]
    adapters = "1 adapter" if len(names) == 1 else f"{len(names)} adapters"
    line = f"ready at {url} with {engine.model_name} and {adapters} after {seconds:.1f} s"
    shown = ", ".join([engine.model_name, *names[:_SHOWN_NAMES]])
    more = len(names) - _SHOWN_NAMES
    body = {
        "model": names[0] if names else engine.model_name,
        "messages": [{"role": "user", "content": "Hello!"}],
    }
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if needs_key else ""
    print(
        f"gossamer: {line}\n"
        f"gossamer: models: {shown}{f' and {more} more' if more > 0 else ''}\n"
        f"gossamer: try: curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} "
        f"-d {shlex.quote(json.dumps(body))}",
        flush=True,
    )


def _warn_of_open_door(host: str) -> None:
    print(
        f"gossamer: warning: anyone who reaches {host} may use this server; ask for keys with "
        "--keys FILE (made by `gossamer keys add`) or --api-key",
        file=sys.stderr,
        flush=True,
    )


def keys_from_environment() -> dict[str, Any]:
    """Return the keys of the variable, as a field of `HttpSettings`."""
    keys = os.environ.get(KEY_VARIABLE, "").split(",")
    return {"api_keys": tuple(key.strip() for key in keys if key.strip())}
