"""Writes the folder of an app for Flower's superlink and supernodes."""

import json
from pathlib import Path

from gossamer.basemodel.catalog import CATALOG
from gossamer.errors import SettingError
from gossamer.federated.rows import DEFAULT_CLIENTS
from gossamer.federated.settings import FederatedSettings
from gossamer.files import replacing_folder
from gossamer.version import VERSION

PACKAGE = "gossamer_app"
SETTINGS = "settings.json"

_PROJECT = """\
[project]
name = "gossamer-federated"
version = "{version}"
description = "{method} by {aggregation}, with Gossamer"
license = "Apache-2.0"
# Gossamer and flwr are installed beforehand, on the server and on every client.
dependencies = []

[tool.flwr.app]
publisher = "gossamer"

[tool.flwr.app.components]
serverapp = "{package}.server:app"
clientapp = "{package}.client:app"

[tool.flwr.app.config]
resume = false
"""

_MODULE = '''\
"""The {side} of the run that settings.json says."""

from pathlib import Path

from gossamer.federated.flower.{module} import {make}
from gossamer.federated.flower.write_app import read_settings

app = {make}(read_settings(Path(__file__).parent))
'''

_README = """\
# A federated run with Gossamer and Flower

On every machine, in a clone of Gossamer and an environment of its own:
`pip install -c constraints-federated.txt -e '.[tune,federated]'`, and
`export FLWR_TELEMETRY_ENABLED=0`, since Flower reports to its makers otherwise.

The server, which has the held-out rows and will have the adapter in `{output}`:

```sh
flower-superlink --insecure --disable-runtime-dependency-installation --host 0.0.0.0 --port 9092
```

Each of the {clients} clients, with its own number from 0 and the file of its own rows:

```sh
flower-supernode --insecure --superlink SERVER:9092 \\
    --node-config 'partition-id=0 data="/path/to/rows.jsonl"'
```

The base model is `{model}`; where a client has it elsewhere, add `model="/path/to/it"` to its
configuration. Several on one machine need a `--port` each, 9094 being the default. Then, in this
folder, with these lines in `~/.flwr/config.toml`:

```toml
[superlink.here]
address = "SERVER:9092"
insecure = true
```

```sh
flwr run . here --stream
```

If the run was stopped, `flwr run . here --stream --run-config resume=true` goes on after the last
round that is whole.

`--insecure` is for one machine or a network that you trust: Flower's documentation says how to give
certificates and keys. Rows never leave a client; what it learns does, which `settings.json` may
cover by `privacy`. Flower starts a new process for every round of a client, which loads the model
again.
"""


def write_app(settings: FederatedSettings, folder: Path) -> list[str]:
    """Write the app for `settings` into the new folder; returns the names of its files.

    Raises `SettingError` for settings that such an app cannot have, or a folder that is there.
    """
    if settings.eval_data is None:
        raise SettingError(
            "the server judges each round by rows of its own; give them as --eval-data"
        )
    if settings.split != "iid":
        raise SettingError(
            f"split {settings.split}: clients of an app have their own rows; leave split out"
        )
    if "held-out" in settings.leave_out:
        raise SettingError(
            "leave_out=held-out: clients of an app do not have the server's held-out rows; leave "
            "it out, and sift the rows of each client beforehand"
        )
    if folder.exists():
        raise SettingError(f"{folder} exists; choose another folder for the app")
    # Of an app, the server alone reads what the settings name, and clients have rows of their own.
    settings = _with_whole_paths(settings)
    settings = settings.model_copy(update={"data": settings.eval_data})
    sides = (
        ("client", "client_app", "make_client_app"),
        ("server", "server_app", "make_server_app"),
    )
    with replacing_folder(folder) as scratch:
        package = scratch / PACKAGE
        package.mkdir(parents=True)
        (package / "__init__.py").write_text('"""A federated run."""\n')
        (package / SETTINGS).write_text(settings.model_dump_json(indent=1) + "\n")
        for side, module, make in sides:
            text = _MODULE.format(side=side, module=module, make=make)
            (package / f"{side}.py").write_text(text)
        project = _PROJECT.format(
            version=VERSION,
            method=settings.method,
            aggregation=settings.aggregation,
            package=PACKAGE,
        )
        (scratch / "pyproject.toml").write_text(project)
        clients = settings.clients or DEFAULT_CLIENTS
        readme = _README.format(output=settings.output, clients=clients, model=settings.model)
        (scratch / "README.md").write_text(readme)
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _with_whole_paths(settings: FederatedSettings) -> FederatedSettings:
    """Write paths in full, since Flower starts the server in a folder of its own. What is the name
    of a model or of a data set stays a name."""
    changes = {"output": str(Path(settings.output).expanduser().absolute())}
    for name in ("model", "eval_data", "start_from"):
        value = getattr(settings, name)
        is_name = value is None or (name == "model" and value in CATALOG)
        if not is_name and (path := Path(value).expanduser()).exists():
            changes[name] = str(path.absolute())
    return settings.model_copy(update=changes)


def read_settings(package: Path) -> FederatedSettings:
    """Read the settings of an app from the folder of its modules."""
    values = json.loads((package / SETTINGS).read_text())
    return FederatedSettings.parse(values, where=SETTINGS)
