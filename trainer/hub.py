"""Where Hugging Face's models come from: a local folder, or `hf://` and a download kept here."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import ConfigError
from .fetch import fetch_file

_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
_PREFIX = "hf://"


def cache_folder() -> Path:
    """`NEVA_PREP_CACHE`, else ~/.cache/neva-prep: downloads and converted models."""
    return Path(os.environ.get("NEVA_PREP_CACHE") or Path.home() / ".cache" / "neva-prep")


def hf_folder(source: str | Path, *, weights: bool = True) -> Path:
    """The local folder of a model; it is downloaded where the source is `hf://owner/name`.

    A download that was cut off goes on where it stopped, next time. `hf://owner/name@revision`
    takes that revision. Only settings, tokenizer files and safetensors are fetched: other weights
    are pickles, which run code.

    Args:
        source: folder, or name on the hub.
        weights: fetch the weights, too.

    Raises:
        ConfigError: there is no such folder, or it cannot be downloaded.
    """
    text = str(source)
    if not text.startswith(_PREFIX):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; for a model of the hub write hf://{text}")
        return folder
    name, _, revision = text.removeprefix(_PREFIX).partition("@")
    return _download(name, revision or None, weights)


def shards(folder: Path) -> list[str]:
    """Names of the files that a folder's weights are in, by its index if it has one.

    Raises:
        ConfigError: the index cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    try:
        names = json.loads(index.read_text())["weight_map"].values()
        # Only the shard's own name: an index must not reach outside the folder.
        return sorted({Path(name).name for name in names})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index}: is no index of safetensors ({error})") from error


def _download(name: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub import hf_hub_url, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    cache = cache_folder() / "hub"
    try:
        folder = Path(
            snapshot_download(name, revision=revision, cache_dir=cache, allow_patterns=_SMALL_FILES)
        )
        for shard in shards(folder) if weights else []:
            if not (folder / shard).exists():
                # The folder's name is the commit.
                fetch_file(hf_hub_url(name, shard, revision=folder.name), folder / shard)
        return folder
    except HFValidationError as error:
        raise ConfigError(f"hf://{name}: no name of a model; write hf://owner/name") from error
    except GatedRepoError as error:
        raise ConfigError(
            f"hf://{name}: its owner lets in only those who asked; accept its terms on the hub and "
            "log in with `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ConfigError(
            f"hf://{name}{f'@{revision}' if revision else ''}: the hub has no such model or "
            "revision, or it is private and you are not logged in"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise ConfigError(
            f"hf://{name}: cannot be downloaded, and {cache} has no whole copy "
            f"({str(error).splitlines()[0]}); try again, which goes on where it stopped, or "
            "without a network give the folder of a copy"
        ) from error
