"""A user's own format: a function of theirs yields records, which are staged as JSON lines."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DiskError, NevaPrepError, RecordError
from ..files import TEMPORARY_SUFFIX
from ..source import Source, open_source

STAGED_FILE = "records.jsonl"
Reader = Callable[[Path], Iterable[Any]]


def find_reader(given: str) -> Reader:
    """The function that `--reader module:function` names; the current folder is searched too.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = given.partition(":")
    if not module or not name:
        raise ConfigError(f"--reader {given}: give module:function, such as my_format:records")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise ConfigError(
            f"--reader {given}: importing {module} fails: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(folder)
    if not callable(found):
        raise ConfigError(f"--reader {given}: {module} has no function {name!r}")
    reader: Reader = found
    return reader


def stage(path: Path, work: Path, given: str) -> Source:
    """Write what a user's function yields as JSON lines, one record each, and open that.

    Args:
        path: what the function is given.
        work: folder for the lines.
        given: `module:function`; it yields records in LLaVA's form.

    Raises:
        ConfigError: there is no such function.
        RecordError: it fails, or yields what is no JSON; the message has the record's number.
        DiskError: the disk refuses.
    """
    read, staged = find_reader(given), work / STAGED_FILE
    # A name of its own: the tasks of one conversion may stage at the same time.
    try:
        with tempfile.NamedTemporaryFile(dir=work, suffix=TEMPORARY_SUFFIX, delete=False) as file:
            try:
                for line in _lines(read, path, given):
                    file.write(line)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, staged)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise DiskError(
            f"{staged}: cannot be written: {error.strerror}; see to the disk"
        ) from error
    return open_source(staged, name=path.name)


def _lines(read: Reader, path: Path, given: str) -> Iterator[bytes]:
    number = 0
    try:
        for record in read(path):
            yield _line(record, given, number)
            number += 1
    except NevaPrepError:
        raise
    except Exception as error:
        raise RecordError(
            f"--reader {given}: fails at record {number} of {path}: {type(error).__name__}: "
            f"{error}; correct the function"
        ) from error
    if not number:
        raise RecordError(f"--reader {given}: yields no record of {path}; there is nothing to do")


def _line(record: Any, given: str, number: int) -> bytes:
    if not isinstance(record, dict):
        raise RecordError(
            f"--reader {given}: record {number} is a {type(record).__name__}; yield a dict with "
            "'conversations', and 'image' where there is one"
        )
    return json.dumps(record, allow_nan=False).encode() + b"\n"
