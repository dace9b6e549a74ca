"""The classes whose copies Ray Serve runs: engine replicas, ingresses, and the ledger of quotas."""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from gossamer.cluster.placement.ledger import Ask, Lease, LeaseRequest, QuotaLeases, QuotaLedger
from gossamer.cluster.published.catalog import AdapterCatalog, PublishedAdapter
from gossamer.cluster.replicas.engine import ReplicaEngine, open_cache, shares_only
from gossamer.cluster.replicas.folder_names import FolderNames
from gossamer.cluster.replicas.names import CatalogNames, Names
from gossamer.cluster.replicas.remote_engine import LostReplicaError, RemoteEngine
from gossamer.cluster.replicas.reports import reported_figures
from gossamer.cluster.replicas.settings import ClusterSettings
from gossamer.cluster.replicas.status import status_router
from gossamer.cluster.replicas.warm import Warming, host_bound, most_asked_at_home
from gossamer.cluster.replicas.wire import ReplicaCall, ReplicaFacts, WireEvent
from gossamer.errors import OverloadedError
from gossamer.serving.core.tenants import LimitsOf, unlimited
from gossamer.serving.http.app import create_app
from gossamer.serving.http.extension import Extension
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.key_file import KeyFile
from gossamer.serving.settings import ServeSettings

log = logging.getLogger(__name__)

LEDGER_SECONDS = 2.0
"""A ledger that does not answer for so long counts as lost."""


class EngineReplica:
    """One copy of the engine."""

    def __init__(
        self, serving: ServeSettings, cluster: ClusterSettings, store: str | None, keys: Any
    ) -> None:
        """Load the base model and start an engine. `keys`: the file of `HttpSettings.keys`."""
        from gossamer.cluster.published.store import open_store
        from gossamer.cluster.tensor_parallel.start import start_engine

        cache = open_cache(
            None if store is None else open_store(store), cluster, serving.adapter_limits
        )
        if cache is not None:
            serving = serving.updated({"adapters": (cache.folder,)})
        engine = start_engine(serving, shares_only(_limits_of(keys)))
        warming = None
        if cache is not None and cluster.catalog is not None:
            warming = Warming(engine, cache, host_bound(serving, engine.stats()))
            # Serve may count fewer while the first ones start.
            replicas = max(cluster.replicas, serve.get_replica_context().world_size)
            warming.start(partial(_at_home, cluster.catalog, _rank(), replicas))
        self._replica = ReplicaEngine(engine, cache, _rank(), warming)

    def describe(self) -> ReplicaFacts:
        """Describe what all replicas have in common."""
        return self._replica.facts()

    async def generate(self, call: ReplicaCall) -> AsyncIterator[list[WireEvent]]:
        """Yield the events of a request as they come; the last one ends it."""
        events = self._replica.generate(call)
        try:
            async for batch in events:
                yield batch
        finally:
            await events.aclose()

    def record_routing_stats(self) -> dict[str, Any]:
        """Report rank and figures to the routers; Serve asks about once a second."""
        # The rank may change when others leave.
        self._replica.rank = _rank()
        return self._replica.figures()

    def check_health(self) -> None:
        """Raise if the engine has stopped; Serve then replaces this replica."""
        self._replica.check()

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was not built
            self._replica.close()


class LedgerHolder:
    """Has the tokens of all tenants; one copy. Lost, a new one begins with full accounts."""

    def __init__(self) -> None:
        self._ledger = QuotaLedger()

    async def lease(self, requests: Sequence[LeaseRequest]) -> Sequence[Lease]:
        """Give tokens to an ingress."""
        return self._ledger.lease(requests)


class Ingress:
    """Speaks HTTP, resolves names, judges quotas, and passes requests on to replicas."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        serving: ServeSettings,
        cluster: ClusterSettings,
        http: HttpSettings,
        engine: Any,
        ledger: Any,
    ) -> None:
        """`engine` and `ledger` are the handles of the other deployments."""
        from gossamer.basemodel.find import resolve
        from gossamer.basemodel.load import load_tokenizer

        loop = asyncio.get_running_loop()
        facts: ReplicaFacts = await engine.describe.remote()
        names = await asyncio.to_thread(_names, serving, cluster, facts.model_name)
        self._http = http
        self._engine = RemoteEngine(
            facts,
            await asyncio.to_thread(lambda: load_tokenizer(resolve(serving.model))),
            names,
            _RayReplicas(engine),
            QuotaLeases(uuid.uuid4().hex, _limits_of(http.keys), _asker(ledger, loop)),
            loop,
        )

    def __serve_build_asgi_app__(self) -> Any:
        """Build the app over this ingress; Serve calls it."""
        extension = Extension(routers=(status_router(self._engine),), lifespan=self._lifespan)
        return create_app(self._engine, self._http, [extension])

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        telling = asyncio.ensure_future(self._engine.keep_telling())
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.to_thread(self._engine.shutdown)


class _RayReplicas:
    """Reaches replicas through a handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle.options(stream=True)

    async def call(self, call: ReplicaCall) -> AsyncGenerator[Sequence[WireEvent], None]:
        response = self._handle.generate.remote(call)
        has_ended = False
        try:
            async for batch in response:
                yield batch
            has_ended = True
        except BackPressureError:
            has_ended = True
            raise OverloadedError(
                "too many requests wait for a replica; try again later", retry_after=1.0
            ) from None
        except (RayError, RayServeException) as error:
            has_ended = True
            raise LostReplicaError(" ".join(str(error).split())[:300]) from error
        finally:
            if not has_ended:
                response.cancel()

    def figures(self) -> Sequence[dict[str, Any]]:
        return reported_figures()


def _asker(ledger: Any, loop: asyncio.AbstractEventLoop) -> Ask:
    """Make what asks the ledger from a thread."""

    async def ask(requests: Sequence[LeaseRequest]) -> Sequence[Lease]:
        return await ledger.lease.remote(requests)

    def wait(requests: Sequence[LeaseRequest]) -> Sequence[Lease] | None:
        future = asyncio.run_coroutine_threadsafe(ask(requests), loop)
        try:
            return future.result(LEDGER_SECONDS)
        except (RayError, RayServeException, TimeoutError) as error:
            future.cancel()
            log.warning("the ledger of quotas does not answer: %s", type(error).__name__)
            return None

    return wait


def _names(serving: ServeSettings, cluster: ClusterSettings, base: str) -> Names:
    if serving.adapters:
        return FolderNames(serving.adapters, base)
    if cluster.catalog is None:
        return CatalogNames(None, base)
    return CatalogNames(AdapterCatalog(cluster.catalog), base)


def _limits_of(keys: Any) -> LimitsOf:
    return unlimited if keys is None else KeyFile(keys).limits_of


def _at_home(catalog_url: str, rank: int, replicas: int) -> Sequence[PublishedAdapter]:
    catalog = AdapterCatalog(catalog_url)
    try:
        return most_asked_at_home(catalog, rank, replicas)
    finally:
        catalog.close()


def _rank() -> int:
    rank = serve.get_replica_context().rank
    return int(getattr(rank, "rank", rank))
