"""Ports that are kept for later."""

from __future__ import annotations

import random
import socket

# Below those that the system gives to connections and to servers that ask for any: a port that is
# free now must be free when ranks come to it, minutes later.
_FROM, _TO = 20_000, 32_000


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    while True:
        port = random.SystemRandom().randrange(_FROM, _TO)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
