"""The application of a cluster for Ray Serve, from settings; and the command's way to run it."""

import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gossamer.cluster.replicas.leftovers import adopting_orphans
from gossamer.cluster.replicas.settings import ClusterSettings
from gossamer.errors import ServingError, SettingError, cut
from gossamer.extras import require
from gossamer.ray_token import require_ray_token
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.settings import ServeSettings

APP = "gossamer"
LOOPBACK_ADDRESS = "127.0.0.1"
_ROUTER = "gossamer.cluster.replicas.router.AdapterRouter"
_ENVIRONMENT = {
    # Ray would report to its makers that and how it is used.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's workers would step back behind every other program of the machine.
    "RAY_worker_niceness": "0",
    # On a busy machine Serve's own processes need longer to start than its 5 seconds.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
}
_MOST_RUNNING = 256
"""Requests that an engine computes at a time on a GPU, the most where settings leave it open."""
_RUNNING = 64
"""Requests that an engine computes at a time, where the settings leave it to the device: 64 on a
CPU, more on a GPU; replicas are added by it."""


def make_application(serving: ServeSettings, cluster: ClusterSettings, http: HttpSettings) -> Any:
    """Make the Serve application. Raises `SettingError` for settings that cannot work here, and
    `MissingExtraError` without Ray."""
    require("cluster serve", "cluster")
    _check(serving, cluster)
    serving, cluster, http = with_absolute_paths(serving, cluster, http)
    store = _store(cluster)
    if serving.threads is None and cluster.cpus_per_replica >= 1:
        # Replicas of one machine would each take all of its processors.
        serving = serving.updated({"threads": int(cluster.cpus_per_replica)})
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    from gossamer.cluster.replicas.deployments import EngineReplica, Ingress, LedgerHolder

    most = most_calls(serving)
    options: dict[str, Any] = {
        "name": "engine",
        # Serve's own queues have room for what comes in at once; else they are to stay empty.
        "max_ongoing_requests": most,
        "max_queued_requests": most,
        "ray_actor_options": {
            "num_cpus": cluster.cpus_per_replica,
            "num_gpus": cluster.gpus_per_replica,
        },
        "health_check_period_s": 2.0,
        "health_check_timeout_s": 10.0,
        "graceful_shutdown_timeout_s": max(http.drain_seconds, 1.0),
        "graceful_shutdown_wait_loop_s": 0.2,
        "request_router_config": RequestRouterConfig(
            request_router_class=_ROUTER,
            request_routing_stats_period_s=1.0,
            request_routing_stats_timeout_s=5.0,
        ),
    }
    if cluster.max_replicas is None:
        options["num_replicas"] = cluster.replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": cluster.replicas,
            "max_replicas": cluster.max_replicas,
            "initial_replicas": cluster.replicas,
            "target_ongoing_requests": max(1, int(0.7 * (serving.max_running or _RUNNING))),
            # Of the requests in so long a time the mean counts.
            "look_back_period_s": min(30.0, max(2.0, cluster.upscale_seconds)),
            "metrics_interval_s": 1.0,
            "upscale_delay_s": cluster.upscale_seconds,
            "downscale_delay_s": cluster.downscale_seconds,
        }
    engine = serve.deployment(EngineReplica).options(**options)
    ledger = serve.deployment(LedgerHolder).options(
        name="ledger", num_replicas=1, ray_actor_options={"num_cpus": 0}
    )
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name="ingress",
        num_replicas=cluster.ingresses,
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=max(http.drain_seconds, 1.0),
        graceful_shutdown_wait_loop_s=0.2,
    )
    return ingress.bind(
        serving, cluster, http, engine.bind(serving, cluster, store, http.keys), ledger.bind()
    )


def from_arguments(arguments: Mapping[str, Any]) -> Any:
    """Make the application from plain values, as a Serve config file has them: `serving`, `cluster`
    and `http`, each with the fields of its settings.

    `import_path: gossamer.cluster.replicas.app:from_arguments` in the `RayService` of KubeRay.
    """
    unknown = set(arguments) - {"serving", "cluster", "http"}
    if unknown:
        raise SettingError(
            f"args of the application: '{min(unknown)}' is none of serving, cluster and http"
        )
    return make_application(
        ServeSettings.parse(arguments.get("serving", {}), where="serving"),
        ClusterSettings.parse(arguments.get("cluster", {}), where="cluster"),
        HttpSettings.parse(arguments.get("http", {}), where="http"),
    )


def start_cluster(serving: ServeSettings, cluster: ClusterSettings, http: HttpSettings) -> None:
    """Start Ray if it is to be started here, and the application; returns when all is ready.

    For the main thread, whose handlers of signals it keeps; one that raises leaves nothing behind.

    Raises `ServingError` if it does not come up, and `SettingError` for settings that cannot work
    here, among them a Ray that was loaded so that it could obey calls without a token.
    """
    if cluster.ray_address is None:
        # First, because the application loads Ray. What a Ray of the user's asks for is theirs.
        require_ray_token()
    application = make_application(serving, cluster, http)
    if cluster.ray_address is None:
        _check_this_machine(serving, http)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with adopting_orphans() as end_all:
        try:
            _start(cluster, http, application)
        except (SystemExit, KeyboardInterrupt) as ended:
            stop_cluster(cluster)
            if cluster.ray_address is None:
                end_all()
            if isinstance(ended, SystemExit) and ended.code == signal.SIGTERM:
                # While Ray itself starts, its own handler ends with the bare number of the signal.
                raise SystemExit(128 + signal.SIGTERM) from None
            raise


def _start(cluster: ClusterSettings, http: HttpSettings, application: Any) -> None:
    import ray
    from ray import serve
    from ray.exceptions import AuthenticationError, RayError

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(
            # Not the Ray that RAY_ADDRESS names, or that runs here already.
            address=cluster.ray_address or "local",
            logging_level="ERROR",
            log_to_driver=False,
            namespace=APP,
            # Ray's own ports are then for this machine alone; those on which Serve's replicas hear
            # each other are not, and have the token only.
            **({} if cluster.ray_address else {"_node_ip_address": LOOPBACK_ADDRESS}),
            include_dashboard=None if cluster.ray_address else False,
        )
        for number, handler in handlers.items():
            # Ray's own ends the process while Ray goes on.
            signal.signal(number, handler)
        _start_serve(http)
        serve.run(application, name=APP, route_prefix="/", logging_config={"log_level": "WARNING"})
    except (ConnectionError, AuthenticationError) as error:
        # Ray says in its log alone that it was a wrong token that was refused.
        raise ServingError(
            f"no Ray cluster at {cluster.ray_address} takes our call: {cut(_first_line(error))}; "
            "start one with `ray start --head`; of one that asks for a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or have the token in ~/.ray/auth_token"
        ) from None
    except (RuntimeError, RayError) as error:
        stop_cluster(cluster)
        raise ServingError(
            f"the replicas did not start: {_first_line(error)}; Ray's logs tell more, in "
            "/tmp/ray/session_latest/logs/serve"
        ) from error


def _start_serve(http: HttpSettings) -> None:
    """Start what Serve itself needs; on a busy machine that exceeds its own limit of a minute."""
    from ray import serve

    for is_last in (False, False, True):
        try:
            serve.start(http_options={"host": http.host, "port": http.port})
            return
        except TimeoutError:
            if is_last:
                raise ServingError(
                    "Ray Serve does not start: its HTTP proxy is not ready after three minutes"
                ) from None


def stop_cluster(cluster: ClusterSettings) -> None:
    """Drain and end the application; and Ray, if it was started here."""
    import ray
    from ray import serve

    if not ray.is_initialized():
        return
    serve.delete(APP)
    if cluster.ray_address is None:
        serve.shutdown()
    ray.shutdown()


def most_calls(serving: ServeSettings) -> int:
    """Return how many calls Serve hands to a replica at a time: well above what its engine takes,
    so that the engine's own queue, which is fair to tenants, is what refuses with 429.

    An engine takes those that run and `max_waiting` more; beyond these it still takes tenants that
    have less than their share of the queue. Calls that are about to be refused count here too.
    """
    return max(serving.max_running or 0, _MOST_RUNNING) + 2 * serving.max_waiting


def with_absolute_paths(
    serving: ServeSettings, cluster: ClusterSettings, http: HttpSettings
) -> tuple[ServeSettings, ClusterSettings, HttpSettings]:
    """Make all paths absolute: the processes of replicas and ingresses have other working folders.

    Raises `SettingError` for a catalog that is no URL.
    """
    from gossamer.basemodel.catalog import CATALOG

    folders = tuple(map(_absolute, serving.adapters))
    model = serving.model
    if model not in CATALOG and Path(model).expanduser().is_dir():
        model = str(_absolute(Path(model)))
    places: dict[str, Any] = {}
    if not str(cluster.cache).startswith("~"):
        # Else each machine has it in the home folder that it knows.
        places["cache"] = cluster.cache.absolute()
    if cluster.store is not None and "://" not in cluster.store:
        places["store"] = str(_absolute(Path(cluster.store)))
    if cluster.catalog is not None:
        require("--catalog", "catalog")
        from gossamer.cluster.published.database import absolute_url

        places["catalog"] = absolute_url(cluster.catalog)
    files = {"keys": http.keys, "request_log": http.request_log}
    return (
        serving.updated({"adapters": folders, "model": model}),
        cluster.updated(places),
        http.updated({name: path and _absolute(path) for name, path in files.items()}),
    )


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _store(cluster: ClusterSettings) -> str | None:
    """The place of the store; None without a catalog. Raises `SettingError`."""
    if cluster.catalog is None:
        return None
    from gossamer.cluster.published.database import default_store

    place = cluster.store
    if place is None:
        beside = default_store(cluster.catalog)
        if beside is None:
            raise SettingError("--store is required unless the catalog is a SQLite file")
        place = str(beside)
    return place


def _check(serving: ServeSettings, cluster: ClusterSettings) -> None:
    if serving.adapters and cluster.catalog is not None:
        raise SettingError(
            "--adapters and --catalog: a name would have two meanings; give the folders, which "
            "replicas look into, or the catalog, into which `gossamer cluster publish` puts them"
        )
    if cluster.store is not None and cluster.catalog is None:
        raise SettingError("--store needs --catalog, which names what lies there")
    if cluster.store is not None and "://" not in cluster.store:
        folder = Path(cluster.store)
        if not folder.is_dir():
            raise SettingError(f"--store {folder}: the folder does not exist; make it first")


def _check_this_machine(serving: ServeSettings, http: HttpSettings) -> None:
    """Raise what replicas and Serve would only write into their logs, before they start."""
    from gossamer.basemodel.find import require_known
    from gossamer.serving.http.transport.server import bind

    require_known(serving.model)
    bind(http.host, http.port).close()


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
