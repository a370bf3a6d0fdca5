"""What goes wrong with objects that lie elsewhere, and trying again where that helps."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from ..errors import ShardError

RETRY_SECONDS = 60.0
"""For so long what can pass is tried again."""
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 8.0
_Given = TypeVar("_Given")


class RemoteError(ShardError):
    """A service refuses, or cannot be reached; the message has the address."""

    exit_code = 1


class MissingObjectError(RemoteError):
    """There is no such object."""


class PassingError(Exception):
    """What may pass by itself: no answer, or one that asks to come again."""


def retried(where: str, ask: Callable[[], _Given]) -> _Given:
    """Ask again, with growing pauses, as long as what fails may pass.

    Args:
        where: address, for messages; nothing where a caller will say it.
        ask: what is to be tried.

    Raises:
        RemoteError: it did not pass, or never will.
    """
    where = f"{where}: " if where else ""
    wait, end = _FIRST_WAIT_SECONDS, time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return ask()
        except RemoteError as error:
            raise type(error)(f"{where}{error}") from error
        except PassingError as error:
            if time.monotonic() + wait > end:
                raise RemoteError(
                    f"{where}{error}, for {RETRY_SECONDS:.0f} seconds; see to the service and "
                    "the network, then go on (convert: with --resume)"
                ) from error
        # At random, so that many who were turned away do not come back at once.
        time.sleep(wait * random.uniform(0.5, 1))
        wait = min(2 * wait, _LONGEST_WAIT_SECONDS)


def without_address(text: str) -> str:
    """A client's message without the query of any address in it: it may be a signature."""
    return re.sub(r"\?[^\s\"']*", "", text)


def host_of(endpoint: str) -> str:
    """Host and port of an address, without any credentials in it."""
    parts = urlsplit(endpoint)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
