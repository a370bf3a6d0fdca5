"""Addresses and what answers them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ...errors import ConfigError, NevaPrepError
from ..look.html import read_asset
from . import images
from .batch_page import batch
from .catalogue import Progress
from .guard import Guard
from .list_pages import grid, quarantine
from .sample_pages import rejected, sample, text
from .site import Site, number_of

ASSETS = {
    "look.css": "text/css",
    "viewer.css": "text/css",
    "look.js": "text/javascript",
    "viewer.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""Everything that is served as it is."""
THREADS = 6
"""Requests that are answered at the same time."""
_KEEP = {"Cache-Control": "private, max-age=3600"}


def make_app(site: Site, *, token: str, hosts: Collection[str]) -> Starlette:
    """The viewer as an ASGI application.

    Args:
        site: what is looked at; its catalogue is begun with the application.
        token: first part of every path.
        hosts: that requests may name, with the port.
    """

    def page(path: str, answer: Callable[[Request], Response]) -> Route:
        return Route(path, answer, methods=["GET"])

    def html(make: Callable[..., str], *numbers: str, asks: bool = True) -> Any:
        """A page that is made of numbers in the path, and of what stands behind the `?`."""

        def answer(request: Request) -> Response:
            values = [request.path_params[name] for name in numbers]
            asked = [request.query_params] if asks else []
            return HTMLResponse(make(site, *values, *asked))

        return answer

    def find(request: Request) -> Response:
        index = site.looked.find(key=request.query_params.get("key", ""))
        return RedirectResponse(f"{site.base}/sample/{index}", 302)

    def image(request: Request) -> Response:
        given = request.path_params
        edge = number_of(request.query_params.get("edge"))
        data, kind = images.original(site, given["index"], given["number"], edge)
        return Response(data, media_type=kind, headers=_KEEP)

    def tile(request: Request) -> Response:
        given = request.path_params
        data, kind = images.tile(site, given["of"], given["number"], given["image"], given["tile"])
        return Response(data, media_type=kind)

    def progress(request: Request) -> Response:
        now = site.catalogue.progress
        return JSONResponse({"text": describe(now), "done": now.is_done})

    def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            raise HTTPException(404)
        return Response(read_asset(name), media_type=ASSETS[name], headers=_KEEP)

    def trouble(request: Request, error: Exception) -> Response:
        missing = isinstance(error, ConfigError | HTTPException)
        title = "Not here" if missing else "This cannot be shown"
        message = error.detail if isinstance(error, HTTPException) else str(error)
        page = site.render("trouble.html", title=title, section="", arrows=False, message=message)
        return HTMLResponse(page, 404 if missing else 500)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        site.catalogue.start()
        yield

    return Starlette(
        routes=[
            page("/", html(grid)),
            page("/sample/{index:int}", html(sample, "index")),
            page("/batch", html(batch)),
            page("/quarantine", html(quarantine)),
            page("/rejected/{n:int}", html(rejected, "n", asks=False)),
            page("/text/{which}/{index:int}/{part}", html(text, "which", "index", "part")),
            page("/find", find),
            page("/image/{index:int}/{number:int}", image),
            page("/tile/{of}/{number:int}/{image:int}/{tile:int}", tile),
            page("/progress", progress),
            page("/static/{name}", asset),
        ],
        middleware=[Middleware(Guard, token=token, hosts=hosts)],
        exception_handlers={NevaPrepError: trouble, HTTPException: trouble},
        lifespan=life,
    )


def describe(progress: Progress) -> str:
    """How far the catalogue is; nothing once it is complete."""
    if progress.error is not None:
        return f"the catalogue stopped: {progress.error}"
    if progress.rows < progress.total:
        return f"{progress.rows:,} of {progress.total:,} catalogued"
    if progress.tokenized is not None and progress.tokenized < progress.total:
        return f"{progress.tokenized:,} of {progress.total:,} tokenized"
    return ""
