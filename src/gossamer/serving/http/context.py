"""The objects that the routes of one app share."""

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from gossamer.serving.core.interface import EngineInterface
from gossamer.serving.http.catalogue import Catalogue
from gossamer.serving.http.fair_threads import FairThreadPool
from gossamer.serving.http.metrics.server import Metrics
from gossamer.serving.http.openai.intake import Intake
from gossamer.serving.http.openai.responses_api.store import ResponseStore
from gossamer.serving.http.openai.sizes import SizeLimits
from gossamer.serving.http.openai.tokenize import RequestEncoder
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.key_ring import KeyRing
from gossamer.serving.tokenization.tool_calls.families import CallParser


@dataclass(frozen=True, slots=True)
class Context:
    """The shared objects of one app: made by `create_app`, found by the routes."""

    engine: EngineInterface
    settings: HttpSettings
    metrics: Metrics
    encoder: RequestEncoder
    call_parser: CallParser
    responses: ResponseStore
    threads: FairThreadPool
    intake: Intake
    catalogue: Catalogue
    limits: SizeLimits
    keys: KeyRing
    started: int
    """The Unix time at which the app was made."""

    @staticmethod
    def of(http: Request) -> "Context":
        """Return the context of the app that serves `http`."""
        return cast(Context, http.app.state.context)
