"""What replicas have reported last to the routers of this process.

Apart from the router, since Serve sends that class to its processes as a copy, and a copy of the
globals of its module with it.
"""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Protocol


class ReportingRouter(Protocol):
    """Knows what the replicas have reported."""

    def figures(self) -> Iterable[Mapping[str, Any]]:
        """Return what each replica has reported last."""


_ROUTERS: "weakref.WeakSet[ReportingRouter]" = weakref.WeakSet()


def register(router: ReportingRouter) -> None:
    """Ask `router` from now on."""
    _ROUTERS.add(router)


def reported_figures() -> list[dict[str, Any]]:
    """Return what each replica has reported last; nothing before the first report has come."""
    for router in list(_ROUTERS):
        if figures := [dict(each) for each in router.figures()]:
            return figures
    return []
