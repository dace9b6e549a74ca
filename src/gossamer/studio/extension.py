"""The page as an addition to the server: its files, its questions, its stream of news."""

from gossamer.serving.http.extension import Extension
from gossamer.studio.api import ask, keys
from gossamer.studio.api.live import live_router
from gossamer.studio.api.live_stream import JobNews
from gossamer.studio.static import page_router


def page_extension(news: JobNews) -> Extension:
    """Make the addition, which shows the jobs of `news`.

    Give it to `create_app` after all others: its document answers every address below /studio that
    nothing else does. Files and document need no key, the routes behind them do.
    """
    return Extension(
        routers=(ask.router, keys.router, live_router(news), page_router()),
        open_paths=frozenset({"/studio", "/studio/"}),
    )
