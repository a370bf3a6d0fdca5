"""Records of a JSON file and their images, as a dataset of a blend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xxhash
from megatron.energon import WorkerConfig
from megatron.energon.source_info import SourceInfo

from ..errors import DiskError, ImageError, NevaPrepError, RecordError
from .image_folder import ImageFolder
from .image_header import PIXEL_LIMIT, read_header
from .indexed import IndexedFactory
from .record_fields import read_fields
from .record_file import RecordFile
from .sample import ConversationSample, FailedSample


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPart:
    """Some records of one file, as a dataset of a blend."""

    file: RecordFile
    indices: Any
    """int64[samples]; numbers of the records."""
    images: ImageFolder | None
    """Where they lie; None for records without images."""
    max_pixels: int = PIXEL_LIMIT
    """Largest width x height of an image."""
    number: float = 1.0
    seed: int = 0
    shards: None = None

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.file.path)

    @property
    def samples(self) -> int:
        """Records."""
        return len(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def fingerprint(self) -> dict[str, Any]:
        """Hash of the file and which records are taken; images are not looked at."""
        return {
            "samples": self.samples,
            "file": self.file.fingerprint(),
            "records": xxhash.xxh3_128(self.indices.tobytes()).hexdigest(),
            "number": self.number,
        }

    def open(self, workers: WorkerConfig, *, training: bool, shuffle: bool) -> IndexedFactory:
        """The records in energon's terms."""
        return IndexedFactory(self, workers, seed=self.seed, shuffle=shuffle)

    def read(self, index: int) -> ConversationSample | FailedSample:
        """The sample of a record, its images as files."""
        number = int(self.indices[index])
        source = SourceInfo(
            dataset_path=self.file.path, index=number, shard_name=self.file.path.name, file_names=()
        )
        keys = {
            "__key__": f"{number:09d}",
            "__restore_key__": (),
            "__subflavors__": {},
            "__sources__": (source,),
        }
        try:
            record = self.file.read(number)
            messages, paths = read_fields(record)
            identity = record.get("id")
            return ConversationSample(
                **keys,
                id=str(number if identity is None else identity),
                messages=messages,
                images=[self._image(path) for path in paths],
                record=record,
            )
        except NevaPrepError as error:
            return FailedSample(**keys, error=_placed(error, f"{self.file.path}:{number}"))

    def _image(self, path: str) -> bytes:
        if self.images is None:
            raise ImageError(
                f"has image {path[:200]!r}, and image_folder of ImageDataConfig is not set",
                reason="missing_image",
            )
        try:
            content = self.images.read(path)
        except DiskError as error:
            # Its way out is convert's.
            finding = str(error).partition(";")[0]
            raise ImageError(finding, reason="unreadable_image") from error
        try:
            read_header(content, pixel_limit=self.max_pixels)
        except ImageError as error:
            raise ImageError(f"image {path[:200]!r} {error}", reason=error.reason) from error
        return content


def _placed(error: NevaPrepError, place: str) -> NevaPrepError:
    """The same with the record's place and a way out."""
    kind = ImageError if isinstance(error, ImageError) else RecordError
    placed = kind(f"{place}: {error}; correct the record, or drop it", reason=error.reason)
    placed.__cause__ = error
    return placed
