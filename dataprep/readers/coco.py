"""COCO's captions: a record for each, with the image that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from ..source import Source, open_source
from .join import Lookup, records_of
from .staging import staged


def open_coco(path: Path, work: Path) -> tuple[Source, str]:
    """Open a file of COCO's captions as a source.

    Args:
        path: such as `annotations/captions_train2017.json`.
        work: folder for its records as JSON lines.

    Returns:
        The source, and where its images lie: `train2017` beside `annotations`, or else the file's
        folder.

    Raises:
        RecordError: the file is broken.
    """
    subset = path.stem.rpartition("_")[2]
    beside = (path.parent.parent / subset, path.parent / subset)
    images = next((folder for folder in beside if folder.is_dir()), path.parent)
    source = staged(
        work,
        {path.name: path},
        lambda: _records(path),
        name=path.name,
        why=f"COCO's captions, a record each; images are looked for in {images.name}/",
        form="captions",
        has_plain_heads=True,
    )
    return source, str(images)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    images = open_source(path, "captions", under="images")
    captions = open_source(path, "captions", under="annotations")
    with closing(images.data), closing(captions.data):
        lookup = Lookup(images, "id")
        for caption in records_of(captions):
            image = lookup.find(caption.get("image_id"))
            # Without its image's name a record is rejected: the image is missing.
            name = image.get("file_name") if image else f"image_id {caption.get('image_id')}"
            yield {**caption, "image": name}
