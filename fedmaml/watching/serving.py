"""The page of a run, on this machine alone: HTML, server-sent events, JSON and Prometheus' text."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from fedmaml.watching.prometheus import exposition
from fedmaml.watching.snapshot import Watch

LOOK_SECONDS = 0.5
"""How often the folder is read; a page is at most this and the round trip behind."""
HEARTBEAT_SECONDS = 10.0
"""A connection that was lost unnoticed is found by a comment that cannot be sent."""

Snapshot = Callable[[], Awaitable[str]]

_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_of(watch: Watch, over: Callable[[], bool]) -> FastAPI:
    """Return the application that shows a run; it changes nothing and has no accounts.

    Args:
        watch: Of the run.
        over: Whether the server is about to end; pages that follow the run are then let go.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Without this, a page of somebody else could read the run by a name that leads to 127.0.0.1.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS)
    reading = asyncio.Lock()

    async def snapshot() -> str:
        async with reading:  # what was read already is kept in the watch
            return json.dumps(await asyncio.to_thread(watch.snapshot))

    @app.get("/")
    def page() -> HTMLResponse:
        text = files("fedmaml.watching").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers=_HEADERS)

    @app.get("/state")
    async def state() -> Response:
        return Response(await snapshot(), media_type="application/json", headers=_HEADERS)

    @app.get("/metrics")
    async def metrics() -> Response:
        text = exposition(json.loads(await snapshot()))
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/events")
    async def events(request: Request) -> StreamingResponse:
        return StreamingResponse(
            _events(request, snapshot, over), media_type="text/event-stream", headers=_HEADERS
        )

    return app


async def _events(
    request: Request, snapshot: Snapshot, over: Callable[[], bool]
) -> AsyncIterator[str]:
    """Yield the state whenever it has changed."""
    before, beat = "", time.monotonic()
    while not over() and not await request.is_disconnected():
        text = await snapshot()
        if text != before:
            before, beat = text, time.monotonic()
            yield f"data: {text}\n\n"
        elif time.monotonic() - beat > HEARTBEAT_SECONDS:
            beat = time.monotonic()
            yield ": still there\n\n"
        await asyncio.sleep(LOOK_SECONDS)


def server_of(watch: Watch, port: int) -> uvicorn.Server:
    """Return the server of the page; it listens on 127.0.0.1 alone."""
    config = uvicorn.Config(
        page_of(watch, lambda: server.should_exit),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    return server


def serve(watch: Watch, port: int) -> None:
    """Serve the page until Ctrl-C."""
    server_of(watch, port).run()
