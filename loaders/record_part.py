"""Records of a JSON file and their images, as a dataset of a blend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from megatron.energon import WorkerConfig
from megatron.energon.source_info import SourceInfo

from ..errors import ImageError, NevaPrepError
from .indexed import IndexedFactory
from .record_fields import image_paths_of, messages_of
from .record_file import RecordFile
from .sample import ConversationSample, FailedSample


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPart:
    """Some records of one file, as a dataset of a blend."""

    file: RecordFile
    indices: Any
    """int64[samples]; numbers of the records."""
    images: Path | None
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
        place = f"{self.file.path}:{number}"
        try:
            record = self.file.read(number)
            messages = messages_of(record, place)
            paths = image_paths_of(record, messages, place)
            return ConversationSample(
                **keys,
                id=str(record.get("id", number)),
                messages=messages,
                images=[self._image(path, place) for path in paths],
                record=record,
            )
        except NevaPrepError as error:
            return FailedSample(**keys, error=error)

    def _image(self, path: str, place: str) -> bytes:
        if self.images is None:
            raise ImageError(
                f"{place}: has an image, and image_folder is not set; set it in ImageDataConfig",
                reason="missing_image",
            )
        try:
            file = (self.images / path).resolve()
            if Path(path).is_absolute() or not file.is_relative_to(self.images):
                raise ImageError(
                    f"{place}: image {path!r} lies outside image_folder; move it there",
                    reason="path_traversal",
                )
            return file.read_bytes()
        # A zero byte or half a character is a ValueError, links in a circle are a RuntimeError.
        except (OSError, ValueError, RuntimeError) as error:
            finding = getattr(error, "strerror", None) or error
            raise ImageError(
                f"{place}: image {path!r} cannot be read ({finding}); correct the path",
                reason="missing_image",
            ) from error
