"""Who may ask the viewer: a browser on this machine that knows the secret path."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_PATH = 1000
"""Characters; Python itself refuses to read numbers of some thousand digits."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""On every answer; nothing inline runs, and no other site can frame, read or be told of a page."""


class Guard:
    """Lets through what asks for the right host under the secret path, and only to read.

    Another site that a name is made to point to this machine (DNS rebinding) still sends its own
    name as Host; other users of the machine do not know the path.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str]) -> None:
        """Stand before an application.

        Args:
            app: answers what is let through; it sees paths without the token.
            token: first part of every path.
            hosts: that the Host header may name, with the port.
        """
        self._app = app
        self._token = token.encode()
        self._hosts = frozenset(host.encode() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                added = HEADERS if b"cache-control" in names else HEADERS | _NOT_KEPT
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in added.items()),
                ]
            await send(message)

        app = refusal or self._app
        await app(scope if refusal else self._inside(scope), receive, send_guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return PlainTextResponse("This host is not the viewer's.\n", 403)
        given = scope["path"].encode("utf-8", "replace").lstrip(b"/").partition(b"/")[0]
        if not secrets.compare_digest(given, self._token):
            return PlainTextResponse("Open the address that neva-prep printed.\n", 403)
        if len(scope["path"]) > MAX_PATH:
            return PlainTextResponse("No page of the viewer has so long an address.\n", 404)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("The viewer only reads.\n", 405, {"Allow": "GET, HEAD"})
        return None

    def _inside(self, scope: Scope) -> Scope:
        prefix = f"/{self._token.decode()}"
        return dict(scope) | {"path": scope["path"], "root_path": prefix}


_NOT_KEPT = {"Cache-Control": "no-store"}
