"""Fetching a large file of the hub, which goes on where an earlier try stopped.

huggingface_hub begins a file again in each process, and shards have gigabytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from ..errors import ConfigError

_BLOCK = 8 * 2**20
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


def fetch_file(url: str, target: Path) -> None:
    """Fetch a file of the hub, unless it is there. Several processes may ask: one does it.

    Args:
        url: with a commit in it, so that all parts are of one version.
        target: the file; `<name>.part` beside it grows until it is whole.

    Raises:
        ConfigError: what came is not what the hub said would come.
        httpx.HTTPError: the hub cannot be reached, or broke off.
    """
    from filelock import FileLock
    from huggingface_hub import get_hf_file_metadata

    part = target.with_name(target.name + ".part")
    with FileLock(f"{part}.lock"):
        if target.exists():
            return
        expected = get_hf_file_metadata(url)
        _append(url, part, expected.size)
        _check(part, expected.size, expected.etag, url)
        part.replace(target)


def _append(url: str, part: Path, size: int | None) -> None:
    """Fetch what the part lacks."""
    import huggingface_hub.utils
    from huggingface_hub import get_session, hf_raise_for_status

    utils: Any = huggingface_hub.utils

    there = part.stat().st_size if part.exists() else 0
    if size is not None and there >= size:
        return
    headers = utils.build_hf_headers() | {"Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    client: Any = get_session()
    with client.stream("GET", url, headers=headers, follow_redirects=True) as answer:
        hf_raise_for_status(answer)
        if there and answer.status_code != 206:  # It sends the whole file.
            there = 0
        settings: dict[str, Any] = {"desc": part.stem, "unit": "B", "unit_scale": True}
        # disable=None shows the bar on a terminal only.
        bar = utils.tqdm(total=size, initial=there, disable=None, **settings)
        with bar, part.open("r+b" if there else "wb") as file:
            file.seek(there)
            for block in answer.iter_bytes(_BLOCK):
                file.write(block)
                file.flush()
                bar.update(len(block))
            os.fsync(file.fileno())


def _check(part: Path, size: int | None, etag: str | None, url: str) -> None:
    """Refuse, and take away, a file that is not what the hub has."""
    wrong = size is not None and part.stat().st_size != size
    if not wrong and etag is not None and _SHA256.match(etag):
        with part.open("rb") as file:
            wrong = hashlib.file_digest(file, "sha256").hexdigest() != etag
    if wrong:
        part.unlink()
        raise ConfigError(f"{url}: what came is damaged, and was thrown away; try again")
