"""Writing a model: not where it is read from, and in place of another only once it is whole.

`<target>.part` beside the target has what is written as `new`, and for the moment between two
renames what was there as `old`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError


@contextmanager
def whole_folder(source: Path, target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to make, which has its place when the block ends without an error.

    What another process was killed at is cleared away before.

    Args:
        source: a folder that is read.
        target: the place.
        overwrite: replace what is there.

    Raises:
        ConfigError: there is something, or it would take the source's place.
    """
    check_apart(source, target)
    part = _part(target)
    _clear(part, target)
    if target.exists() and not overwrite:
        raise ConfigError(f"{target}: is there already; give another path or overwrite it")
    part.mkdir(parents=True)
    try:
        yield part / "new"
        if os.path.lexists(target):
            target.rename(part / "old")
        (part / "new").rename(target)
    finally:
        _clear(part, target)


def check_apart(source: Path, target: Path) -> None:
    """Refuse to write a model over what it is read from; links are followed.

    Args:
        source: a folder that is read.
        target: a folder that is written, in place of what is there.

    Raises:
        ConfigError: one lies in the other, or both are one.
    """
    read = source.resolve()
    for name in (target.absolute(), _part(target)):
        written = name.resolve()
        if read.is_relative_to(written) or written.is_relative_to(read):
            raise ConfigError(
                f"{target}: writing there would delete or change {source}, which is read from; "
                "give a folder beside it"
            )


def _part(target: Path) -> Path:
    whole = target.absolute()
    return whole.with_name(whole.name + ".part")


def _clear(part: Path, target: Path) -> None:
    """Delete what was written; what was there is put back if nothing has taken its place."""
    old = part / "old"
    if os.path.lexists(old):
        # Under another name, what is half deleted is never put back.
        old.rename(part / "gone" if os.path.lexists(target) else target)
    shutil.rmtree(part, ignore_errors=True)
