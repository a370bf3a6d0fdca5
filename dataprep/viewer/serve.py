"""The local web viewer: one process, this machine's own address, a secret path."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ...errors import ConfigError
from ..look.stops import Flow, most_characters

if TYPE_CHECKING:
    import uvicorn

    from ..look.open import Looked
    from ..look.settings import LookSettings
    from .site import Site

LOOPBACK = "127.0.0.1"


def serve(
    looked: Looked,
    *,
    settings: LookSettings | None = None,
    port: int = 0,
    open_browser: bool = False,
) -> None:
    """Show what is looked at in a browser, until Ctrl-C; the address goes to stdout.

    Only this machine can ask, and only with the address, whose path is drawn at random each time.
    Nothing is written but a temporary catalogue, which is removed at the end.

    Args:
        looked: what to show.
        settings: what training would be given; None shows no tokens, packs or batches.
        port: 0 takes a free one.
        open_browser: whether to open the address, where there is a desktop.

    Raises:
        ConfigError: the extra `viewer` is not installed, or the port is taken.
        NevaPrepError: what is looked at cannot be read.
    """
    server, site, bound, url = _prepare(looked, settings, port)
    print(url, flush=True)
    print("Ctrl-C stops the viewer.", file=sys.stderr)
    if open_browser and _has_desktop():
        import webbrowser

        # The socket listens already: the page comes as soon as the server runs.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    try:
        with suppress(KeyboardInterrupt):  # The usual end.
            server.run(sockets=[bound])
    finally:
        bound.close()
        site.close()


@contextmanager
def running(looked: Looked, *, settings: LookSettings | None = None) -> Iterator[str]:
    """A viewer in the background; gives its address."""
    server, site, bound, url = _prepare(looked, settings, 0)
    thread = threading.Thread(target=server.run, args=([bound],), name="viewer")
    thread.start()
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join()
        bound.close()
        site.close()


def _prepare(
    looked: Looked, settings: LookSettings | None, port: int
) -> tuple[uvicorn.Server, Site, socket.socket, str]:
    """A server that is not started, what it shows, the socket that it takes, and its address."""
    try:
        import uvicorn

        from .app import make_app
    except ImportError as error:
        raise ConfigError(
            f"the viewer needs {error.name}; run pip install 'neva-prep[viewer]'"
        ) from error
    from .batches import Batches
    from .catalogue import Catalogue
    from .site import Site

    bound = _bind(port)
    port = bound.getsockname()[1]
    token = secrets.token_urlsafe(24)
    flow = Flow(looked, settings, max_characters=most_characters(settings))
    site = Site(flow=flow, catalogue=Catalogue(flow), batches=Batches(flow), base=f"/{token}")
    app = make_app(site, token=token, hosts=[f"{LOOPBACK}:{port}", f"localhost:{port}"])
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, ws="none"
    )
    return uvicorn.Server(config), site, bound, f"http://{LOOPBACK}:{port}/{token}/"


def _has_desktop() -> bool:
    """Whether a browser would be a window; without one it would take over the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _bind(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((LOOPBACK, port))
        # From now on a browser is heard: its first request waits for the server to be ready.
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"port {port} cannot be taken ({error.strerror}); give another, or none"
        ) from error
    return bound
