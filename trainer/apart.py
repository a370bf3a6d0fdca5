"""Where a model may be written: not where it is read from."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError


def check_apart(source: Path, target: Path) -> None:
    """Refuse to write a model over what it is read from; links are followed.

    Args:
        source: a folder that is read.
        target: a folder that is written, in place of what is there.

    Raises:
        ConfigError: one lies in the other, or both are one.
    """
    read = source.resolve()
    # What is written has the second name until it is whole, and the third is what was there.
    whole = target.absolute()
    for name in (whole, *(whole.with_name(whole.name + end) for end in (".part", ".old"))):
        written = name.resolve()
        if read.is_relative_to(written) or written.is_relative_to(read):
            raise ConfigError(
                f"{target}: writing there would delete or change {source}, which is read from; "
                "give a folder beside it"
            )
