"""A hash by which a split is known again, wherever it lies."""

from __future__ import annotations

import hashlib
import json

from ..errors import ShardError
from .format import MANIFEST_FILE, read_manifest
from .remote_shard import shard_size
from .trust import TrustedDataset


def fingerprint_shards(dataset: TrustedDataset, split: str) -> str:
    """Hash of the names, sample counts and sizes of a split's shards.

    Where there is a manifest of ours, it covers the shards' own hashes too.

    Raises:
        ShardError: a shard is missing.
    """
    hashes: dict[str, str] = {}
    if (dataset.path / MANIFEST_FILE).is_file():
        hashes = {shard.name: shard.xxh3_128 for shard in read_manifest(dataset.path).shards}
    digest = hashlib.sha256()
    for name in dataset.splits[split]:
        try:
            size = shard_size(dataset.path / name)
        except OSError as error:
            raise ShardError(
                f"{dataset.path / name}: cannot be read ({error.strerror}); run neva-prep verify "
                f"{dataset.path}"
            ) from error
        row = [name, dataset.shard_samples[name], size, hashes.get(name)]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
