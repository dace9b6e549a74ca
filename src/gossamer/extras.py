"""Packages that only some commands need, and the one line that says how to install them."""

from importlib.util import find_spec

from gossamer.errors import MissingExtraError

EXTRAS = {
    "tune": ("accelerate", "datasets", "matplotlib", "peft", "trl"),
    "plot": ("matplotlib",),
    "qlora": ("accelerate", "bitsandbytes"),
    "int8": ("accelerate", "torchao"),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "studio": ("alembic", "python_multipart", "sqlalchemy"),
    "postgres": ("psycopg",),
    "catalog": ("sqlalchemy",),
    "cluster": ("ray", "sqlalchemy"),
    "otel": ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.sdk"),
    "federated": ("flwr",),
    "federated-simulation": ("flwr", "ray"),
    "eval": ("lm_eval", "matplotlib"),
}
"""Names to import, by the group of packages in `pyproject.toml` that brings them."""


def require(what: str, extra: str) -> None:
    """Raise `MissingExtraError` if a package of `extra`, which `what` needs, is not installed.

    Nothing is imported, so that the answer comes at once.
    """
    missing = [name for name in EXTRAS[extra] if not _is_there(name)]
    if missing:
        raise MissingExtraError.of(what, ", ".join(missing), extra)


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        # Of a name with dots, the package above it is looked into.
        return False
