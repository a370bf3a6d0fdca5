"""NeMo's lazy data module: a JSON file and a folder of images, read as they are.

No conversion is needed, and none of its checks are made before training: a bad record is skipped
and counted when it comes up. Images are opened one by one, which a network disk does slowly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from ..errors import ConfigError
from ..templates.config import ImageToken
from ..templates.library import get_template
from .blend import Blend
from .config import MultiModalSampleConfig
from .energon_loader import StartMethod
from .image_config import Fit
from .image_folder import ImageFolder
from .pixel_reader import PixelReader, make_pixel_reader
from .read_image import ImageReader
from .record_file import RecordFile
from .record_part import RecordPart
from .skips import DEFAULT_MAX_SKIP_RATIO
from .stream_module import StreamDataModule, StreamSettings, read_configs
from .task_encoder import MultiModalTaskEncoder

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
DEFAULT_MODEL = "llava-hf/llava-1.5-7b-hf"
"""Whose processor is loaded where no tokenizer or image processor is given, as in NeMo."""
_PARTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDataConfig:
    """Where the images are, and what is made of a record, with NeMo's fields."""

    image_folder: str | os.PathLike[str] | None = None
    """Folder that the records' image paths are relative to; None for records without images."""
    conv_template: str = "v1"
    """Name of a template of neva_prep.templates."""
    image_process_mode: Literal["pad", "keep", "crop"] | None = "pad"
    """`pad` to a square of the mean colour (LLaVA-1.5), `keep` the shape, `crop` the middle; None
    for what the image processor does by itself."""
    media_type: Literal["image"] = "image"
    media_token: ImageToken = field(default_factory=ImageToken)
    val_fraction: float = 0.02
    """Share of the records that are held out for validation; which ones, their numbers decide."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work with a ConfigError."""
        if self.media_type != "image":
            raise ConfigError(f"media_type={self.media_type!r}: only 'image' can be read")
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(f"val_fraction={self.val_fraction}: must be 0 or more and below 1")


class NevaLazyDataModule(StreamDataModule):
    """Streams of batches straight from LLaVA's JSON or JSONL and its images."""

    def __init__(
        self,
        paths: Paths,
        weights: Sequence[float] | None = None,
        data_config: ImageDataConfig | None = None,
        seq_length: int = 2048,
        tokenizer: Any = None,
        image_processor: Any = None,
        micro_batch_size: int = 4,
        global_batch_size: int = 8,
        num_workers: int = 8,
        num_val_workers: int | None = None,
        pin_memory: bool = True,
        use_packed_sequence: bool = False,
        seed: int = 1234,
        *,
        val_paths: Paths | None = None,
        packed_sequence_size: int | None = None,
        packing_buffer_size: int | None = None,
        num_image_embeddings_per_tile: int = 576,
        max_skip_ratio: float = DEFAULT_MAX_SKIP_RATIO,
        data_parallel_rank: int | None = None,
        data_parallel_size: int | None = None,
        data_parallel_group: Any = None,
        start_method: StartMethod = "fork",
        task_encoder: MultiModalTaskEncoder | None = None,
    ) -> None:
        """Take the settings; files are opened by the first dataloader.

        Args:
            paths: a JSON array or JSONL file of records, or several.
            weights: of several files: their samples are drawn in this proportion.
            data_config: image folder, template and so on.
            seq_length: most positions of a sample, image embeddings included.
            tokenizer: of transformers; LLaVA-1.5's from Hugging Face unless given.
            image_processor: what MultiModalTaskEncoder takes; LLaVA-1.5's unless given.
            micro_batch_size: samples of a batch.
            global_batch_size: samples of a step over all ranks.
            num_workers: processes that read for this rank; 0 reads in this process.
            num_val_workers: of validation; `num_workers` unless given.
            pin_memory: give pixels in pinned memory, where there is a GPU.
            use_packed_sequence: several samples in a row; `micro_batch_size` must then be 1.
            seed: of the shuffling.
            val_paths: files of validation; without them `val_fraction` is held out of `paths`.
            packed_sequence_size: positions of a pack; `seq_length` unless given.
            packing_buffer_size: samples among which packs are chosen; 1024 unless given.
            num_image_embeddings_per_tile: positions that a tile takes in the model.
            max_skip_ratio: share of bad records above which an error is raised.
            data_parallel_rank: as in EnergonMultiModalDataModule.
            data_parallel_size: as in EnergonMultiModalDataModule.
            data_parallel_group: as in EnergonMultiModalDataModule.
            start_method: of worker processes.
            task_encoder: in place of the one that is made of the arguments above.

        Raises:
            ConfigError: the settings cannot work together.
        """
        self.data_config = data_config = data_config or ImageDataConfig()
        self._paths = _list(paths)
        self._val_paths = _list(val_paths) if val_paths is not None else None
        self._weights = _check_weights(self._paths, weights)
        self._seed = seed
        self._files: dict[Path, RecordFile] = {}
        self._opened: dict[str, Blend] = {}
        if task_encoder is None:
            size = packed_sequence_size or seq_length
            tokenizer, image_processor = _default_processor(tokenizer, image_processor)
            task_encoder = MultiModalTaskEncoder(
                tokenizer,
                _reader(image_processor, data_config.image_process_mode),
                _sample_config(data_config),
                packed_sequence=use_packed_sequence,
                packed_sequence_size=size if use_packed_sequence else -1,
                num_image_embeddings_per_tile=num_image_embeddings_per_tile,
                seq_length=seq_length,
                template=get_template(data_config.conv_template),
            )
        self.task_encoder = task_encoder
        read, read_val = read_configs(
            task_encoder,
            task_encoder,
            micro_batch_size=micro_batch_size,
            num_workers=num_workers,
            num_val_workers=num_val_workers,
            # The order of the records is a full shuffle already; 1 asks for it, without a buffer.
            shuffle_buffer_size=1,
            packing_buffer_size=packing_buffer_size,
            seed=seed,
        )
        settings = StreamSettings(
            encoder=task_encoder,
            val_encoder=task_encoder,
            read=read,
            read_val=read_val,
            global_batch_size=global_batch_size,
            max_skip_ratio=max_skip_ratio,
            data_parallel_rank=data_parallel_rank,
            data_parallel_size=data_parallel_size,
            data_parallel_group=data_parallel_group,
            start_method=start_method,
            pin_memory=pin_memory,
        )
        super().__init__(self._open_records, settings)

    def _open_records(self, split: str) -> Blend:
        """The records of a split, from each file; found once.

        Raises:
            ConfigError: a file is missing, or the split has no records.
        """
        if split not in self._opened:
            self._opened[split] = self._find_records(split)
        return self._opened[split]

    def _find_records(self, split: str) -> Blend:
        training = split == self.settings.train_split
        own_val = self._val_paths is not None
        paths = self._paths if training or self._val_paths is None else self._val_paths
        weights = self._weights if training else None
        parts = []
        for number, path in enumerate(paths):
            if path not in self._files:
                self._files[path] = RecordFile(path)
            file = self._files[path]
            chosen = _chosen(len(file), training, 0.0 if own_val else self.data_config.val_fraction)
            indices = np.arange(len(file)) if own_val else chosen
            if not len(indices):
                raise ConfigError(
                    f"{path}: none of its {len(file)} records is in the {split} split with "
                    f"val_fraction={self.data_config.val_fraction:g}; change it, or give val_paths"
                )
            parts.append(
                RecordPart(
                    file=file,
                    indices=indices,
                    images=_folder(self.data_config.image_folder),
                    max_pixels=_max_pixels(self.task_encoder.preparer.reader),
                    number=weights[number] if weights else 1.0,
                    seed=self._seed,
                )
            )
        mode: Any = "weights" if weights else "single" if len(parts) == 1 else "repetitions"
        return Blend(name=" + ".join(map(str, paths)), mode=mode, parts=tuple(parts))


def _chosen(records: int, training: bool, val_fraction: float) -> Any:
    """Numbers of the records of one side of the split; each one's hash decides."""
    hashes = np.fromiter(
        (xxhash.xxh3_64_intdigest(b"%d" % number) % _PARTS for number in range(records)),
        np.int64,
        records,
    )
    held_out = hashes < round(val_fraction * _PARTS)
    return np.flatnonzero(~held_out if training else held_out)


def _list(paths: Paths) -> list[Path]:
    if isinstance(paths, str | os.PathLike):
        return [Path(paths)]
    if not paths:
        raise ConfigError("paths=[]: give at least one file of records")
    return [Path(path) for path in paths]


def _check_weights(paths: Sequence[Path], weights: Sequence[float] | None) -> list[float] | None:
    if weights is None:
        return None
    if len(weights) != len(paths) or not all(weight > 0 for weight in weights):
        raise ConfigError(
            f"weights={list(weights)} for {len(paths)} paths: give one above 0 for each"
        )
    return [float(weight) for weight in weights]


def _folder(path: str | os.PathLike[str] | None) -> ImageFolder | None:
    if path is None:
        return None
    if not Path(path).is_dir():
        raise ConfigError(f"image_folder={path}: is no folder; correct the path")
    return ImageFolder(os.fspath(path))


def _reader(processor: Any, fit: Fit | None) -> ImageReader:
    """What reads images; with the fit, unless that is left to it."""
    if isinstance(processor, ImageReader) and not isinstance(processor, PixelReader):
        if fit is None:
            return processor
        raise _own_fit(processor, fit)
    reader = make_pixel_reader(processor)
    if reader.config is None and fit is not None:
        raise _own_fit(reader.processor, fit)
    return make_pixel_reader(reader, fit=fit)


def _max_pixels(reader: ImageReader) -> int:
    """Limit of what reads images; one of another kind looks at that itself."""
    return int(getattr(reader.config or reader, "max_pixels", sys.maxsize))


def _own_fit(processor: Any, fit: Fit) -> ConfigError:
    return ConfigError(
        f"image_process_mode={fit!r}: {type(processor).__name__} brings images into shape its own "
        "way; set image_process_mode=None in ImageDataConfig, or pass an ImageConfig instead of it"
    )


def _sample_config(config: ImageDataConfig) -> MultiModalSampleConfig:
    return MultiModalSampleConfig(image_token=config.media_token)


def _default_processor(tokenizer: Any, image_processor: Any) -> tuple[Any, Any]:
    if tokenizer is not None and image_processor is not None:
        return tokenizer, image_processor
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(DEFAULT_MODEL)
    except Exception as error:  # Offline, transformers raises nearly anything.
        raise ConfigError(
            f"no tokenizer or image_processor is given, and that of {DEFAULT_MODEL} cannot be "
            f"loaded: {str(error)[:200]}; pass both"
        ) from error
    return tokenizer or processor.tokenizer, image_processor or processor.image_processor
