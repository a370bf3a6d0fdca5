"""The task encoder: energon's hooks, each a line or two around a step of the flow.

    cook ──▶ preencode: tokens ──▶ select: packs ──▶ postencode: pixels ──▶ pack ──▶ batch

No pixel is decoded before its pack is chosen. A hook never raises for a bad sample: it leaves the
sample out and notes why (skips.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from megatron.energon import (
    Cooker,
    SavableDataset,
    SkipSample,
    TaskEncoder,
    WorkerConfig,
    stateless,
)
from megatron.energon.wrappers import BatchDataset

from ..errors import ConfigError, NevaPrepError, PackError
from ..templates.encode import SpecialText
from ..templates.overflow import Overflow
from ..templates.render import ConversationTemplate, ImagePlacement
from .batch import Batch
from .collate import collate_pack, collate_padded
from .config import MultiModalSampleConfig
from .encoded import EncodedSample, RowConfig, length
from .encoders import ENCODERS, TextRules
from .pack import build_pack
from .packer import Packer
from .pixel_reader import make_pixel_reader
from .prepared import EncodedText, PackedSample, PreparedSample, ReadySample
from .quiet_packing import QuietPackingDataset
from .read_image import ImageReader, count_tiles, read_images
from .sample import FailedSample, cook_or_fail
from .skips import Note, Tally
from .transfer import Parcel, pack_up

SampleEncoder = Callable[[Any, TextRules], EncodedText]
"""Makes tokens of one type of sample; raises a NevaPrepError for a bad one."""


class MultiModalTaskEncoder(TaskEncoder):  # type: ignore[misc]
    """Makes batches of samples of every type, packed or padded."""

    cookers = (Cooker(cook_or_fail),)
    # energon's own decoder would unpickle members that are named *.pkl or *.pth.
    decoder = None
    # What a hook raises is a fault of the program and reaches the caller at the first time.
    __default_failure_tolerance__ = 1

    def __init__(
        self,
        tokenizer: Any,
        image_processor: Any,
        multimodal_sample_config: MultiModalSampleConfig | None = None,
        packed_sequence: bool = False,
        packed_sequence_size: int = -1,
        num_image_embeddings_per_tile: int = 576,
        *,
        seq_length: int | None = None,
        overflow: Overflow = "error",
        image_placement: ImagePlacement = "keep",
        special_text: SpecialText = "escape",
        pack_alignment: int = 1,
        max_tiles_per_pack: int | None = None,
        pad_packs: bool = False,
        template: ConversationTemplate | None = None,
    ) -> None:
        """Take what all samples share.

        Args:
            tokenizer: of transformers.
            image_processor: an ImageConfig, an image processor of transformers, a processor that
                has one, or a PixelReader.
            multimodal_sample_config: tokens, template, and order of images; the default is NeMo's.
            packed_sequence: several samples in a row; a batch is then one pack.
            packed_sequence_size: positions of a pack, image embeddings included.
            num_image_embeddings_per_tile: positions that a tile takes in the model.
            seq_length: most positions of a sample, image embeddings included; None for no limit
                but the pack's.
            overflow: what becomes of a longer one. `error` skips and counts it,
                `drop_last_turns` and `truncate_answer` shorten and count it.
            image_placement: `keep` leaves images where they stand, `front` moves them before the
                text of their turn, as LLaVA does.
            special_text: `escape` encodes content that looks like a special token as plain text,
                `error` skips the sample.
            pack_alignment: a packed sample takes a multiple of so many positions: 2 x context
                parallel x tensor parallel size with sequence parallel, else 2 x context parallel.
            max_tiles_per_pack: cap on the work of the vision encoder; None for none.
            pad_packs: fill every pack to `packed_sequence_size` with padding.
            template: of conversations, in place of the config's; see `get_template`.

        Raises:
            ConfigError: the settings cannot work together.
        """
        self.packed_sequence = packed_sequence
        self.packed_sequence_size = packed_sequence_size
        self.reader: ImageReader = (
            image_processor
            if isinstance(image_processor, ImageReader)
            else make_pixel_reader(image_processor)
        )
        config = multimodal_sample_config or MultiModalSampleConfig()
        if packed_sequence and packed_sequence_size < 1:
            raise ConfigError(
                f"packed_sequence_size={packed_sequence_size}: packs need a size; for example 4096"
            )
        limits = [
            limit for limit in (seq_length, packed_sequence and packed_sequence_size) if limit
        ]
        self.rules = TextRules(
            tokenizer=tokenizer,
            config=config,
            # Shifted, a sample is one shorter; a pack may be filled to the last position.
            max_length=min(limits) + 1 if limits else None,
            overflow=overflow,
            image_embeddings=num_image_embeddings_per_tile,
            image_placement=image_placement,
            special_text=special_text,
            named_template=template,
        )
        self.row_config = RowConfig(
            pad_id=_pad_id(tokenizer),
            image_token_id=config.image_token.token_id,
            ignore_index=config.ignore_place_holder,
            num_image_embeddings_per_tile=num_image_embeddings_per_tile,
            alignment=pack_alignment,
            image_size=_image_size(self.reader),
        )
        self.packer = (
            Packer(pack_length=packed_sequence_size, max_tiles=max_tiles_per_pack)
            if packed_sequence
            else None
        )
        self.pad_packs = pad_packs
        self.encoders: dict[str, SampleEncoder] = dict(ENCODERS)
        self._tally = Tally()

    def register_encoder(self, sample_type: str | type, encoder: SampleEncoder) -> None:
        """Use an encoder for a type of sample, also in place of one that is there.

        Args:
            sample_type: the class, or its name.
            encoder: called with a sample and the TextRules; gives the EncodedText. It must be
                a function of its arguments alone, or no stream can be resumed exactly.
        """
        name = sample_type if isinstance(sample_type, str) else sample_type.__name__
        self.encoders[name] = encoder

    def for_stream(self, epoch_samples: int) -> MultiModalTaskEncoder:
        """A copy with notes of its own, for one stream.

        Args:
            epoch_samples: that one worker reads in an epoch.
        """
        twin = copy.copy(self)
        twin._tally = Tally(patience=epoch_samples)
        return twin

    def describe(self) -> dict[str, Any]:
        """The settings that decide what a sample becomes, as plain data; for resume.py."""
        return {
            "packed_sequence": self.packed_sequence,
            "packed_sequence_size": self.packed_sequence_size if self.packed_sequence else None,
            "max_tiles_per_pack": self.packer.max_tiles if self.packer else None,
            "pad_packs": self.pad_packs,
            "rows": repr(self.row_config),
            "images": repr(self.reader.config) if self.reader.config else self.reader.describe(),
            "max_length": self.rules.max_length,
            "overflow": self.rules.overflow,
            "image_placement": self.rules.image_placement,
            "special_text": self.rules.special_text,
            "sample_config": repr(self.rules.config),
            "template": repr(self.rules.named_template),
            "encoders": sorted(
                f"{name}: {getattr(function, '__module__', '')}."
                f"{getattr(function, '__qualname__', type(function).__qualname__)}"
                for name, function in self.encoders.items()
            ),
        }

    @stateless  # type: ignore[untyped-decorator]
    def preencode_sample(self, sample: Any) -> PreparedSample:
        """Tokens of a sample, and how long it is; its images are only counted."""
        with _Skipping(self._tally, "tokens"):
            if isinstance(sample, FailedSample):
                raise sample.error
            return self._prepare(sample)

    def select_samples_to_pack(self, samples: list[PreparedSample]) -> list[list[PreparedSample]]:
        """Packs of a full buffer; every sample is in one of them."""
        assert self.packer is not None, "energon packs only where packed_sequence is set"
        packs, rest = self.packer.select(
            samples,
            [sample.length for sample in samples],
            tiles=[int(sample.encoded.num_tiles.sum()) for sample in samples],
        )
        assert not rest, "energon would lose what is not packed"
        return packs

    @stateless  # type: ignore[untyped-decorator]
    def postencode_sample(self, sample: PreparedSample) -> ReadySample:
        """The sample with the pixels of its images."""
        with _Skipping(self._tally, "pixels"):
            encoded = _with_pixels(sample, self.reader)
            ready: ReadySample = ReadySample.derive_from(
                sample, encoded=encoded, events=sample.events
            )
            return ready

    @stateless  # type: ignore[untyped-decorator]
    def pack_selected_samples(self, samples: list[ReadySample]) -> PackedSample:
        """The samples in one row."""
        if not samples:  # The images of all its samples were bad.
            raise SkipSample
        pad_to = self.packed_sequence_size if self.pad_packs else None
        pack = build_pack([sample.encoded for sample in samples], self.row_config, pad_to=pad_to)
        packed: PackedSample = PackedSample.derive_from(
            samples[0], pack=pack, events=[sample.events for sample in samples]
        )
        return packed

    @stateless  # type: ignore[untyped-decorator]
    def batch(self, samples: list[ReadySample] | list[PackedSample]) -> tuple[Parcel, Note]:
        """A batch, packed up to travel, with the note of what was skipped since the last one."""
        batch = self._collate(samples)
        if not len(batch["media"]):
            batch["media"] = batch["media"].to(_media_type(self.reader))
        for sample in samples:
            for events in sample.events if isinstance(sample, PackedSample) else [sample.events]:
                self._tally.deliver(events)
        return pack_up(batch), self._tally.drain()

    def build_batch(
        self,
        dataset: SavableDataset,
        *,
        batch_size: int | None,
        batch_drop_last: bool = False,
        packing_buffer_size: int | None = None,
        worker_config: WorkerConfig,
    ) -> SavableDataset:
        """Energon's chain from samples to batches; with its packing made quiet."""
        if packing_buffer_size is not None:
            dataset = QuietPackingDataset(
                dataset,
                buffer_size=packing_buffer_size,
                pre_packer=self.select_samples_to_pack,
                final_packer=self.pack_selected_samples,
                final_packer_stateless=True,
                sample_encoder=self.postencode_sample,
                sample_encoder_stateless=True,
                pre_packer_failure_tolerance=1,
                final_packer_failure_tolerance=1,
                sample_encoder_failure_tolerance=1,
                worker_config=worker_config,
            )
            return BatchDataset(
                dataset,
                batch_size=batch_size,
                batcher=self.batch,
                batcher_stateless=True,
                failure_tolerance=1,
                worker_config=worker_config,
            )
        return super().build_batch(
            dataset,
            batch_size=batch_size,
            batch_drop_last=batch_drop_last,
            worker_config=worker_config,
        )

    def _prepare(self, sample: Any) -> PreparedSample:
        found = self._encoder_of(sample)(sample, self.rules)
        tiles = count_tiles(sample.__key__, found.images, self.reader)
        encoded = EncodedSample(
            key=sample.__key__,
            tokens=found.text.tokens,
            labels=found.text.labels,
            num_tiles=np.array(tiles, dtype=np.int64),
            origin=_origin(sample),
        )
        size = length(encoded, self.row_config)
        if self.packer is not None:
            self.packer.check(encoded.key, size, sum(tiles))
        elif self.rules.max_length is not None and size >= self.rules.max_length:
            raise PackError(
                f"sample {encoded.key}: takes {size} positions with the {sum(tiles)} tiles of its "
                f"images, the limit is {self.rules.max_length - 1}; raise seq_length",
                reason="too_long",
            )
        prepared: PreparedSample = PreparedSample.derive_from(
            sample,
            encoded=encoded,
            images=found.images,
            length=size,
            events=dict(found.text.events),
        )
        return prepared

    def _encoder_of(self, sample: Any) -> SampleEncoder:
        for kind in type(sample).__mro__:
            if kind.__name__ in self.encoders:
                return self.encoders[kind.__name__]
        raise ConfigError(
            f"{type(sample).__name__}: no encoder is known for this type of sample; known are "
            f"{', '.join(sorted(self.encoders))}; add one with register_encoder"
        )

    def _collate(self, samples: Sequence[Any]) -> Batch:
        if self.packed_sequence:
            return collate_pack(samples[0].pack, self.row_config)
        return collate_padded([sample.encoded for sample in samples], self.row_config)


class _Skipping:
    """Turns a fault of a sample into a note and energon's SkipSample; others pass."""

    def __init__(self, tally: Tally, stage: str) -> None:
        self._tally = tally
        self._stage = stage

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self._tally.passed(self._stage)
        elif isinstance(error, NevaPrepError) and not isinstance(error, ConfigError):
            self._tally.skip(error, self._stage)
            raise SkipSample from error


def _with_pixels(sample: PreparedSample, reader: ImageReader) -> EncodedSample:
    encoded = sample.encoded
    pixels = read_images(encoded.key, sample.images, reader)
    return EncodedSample(
        key=encoded.key,
        tokens=encoded.tokens,
        labels=encoded.labels,
        num_tiles=encoded.num_tiles,
        pixels=pixels,
        origin=encoded.origin,
    )


def _origin(sample: Any) -> str:
    """Name of the dataset that a sample was read from."""
    sources = sample.__sources__
    return str(sources[0].dataset_path) if sources else ""


def _pad_id(tokenizer: Any) -> int:
    for name in ("pad_token_id", "unk_token_id", "eos_token_id"):
        number = getattr(tokenizer, name, None)
        if number is not None:
            return int(number)
    return 0


def _image_size(reader: ImageReader) -> tuple[int, int]:
    return (reader.config.size, reader.config.size) if reader.config else (336, 336)


def _media_type(reader: ImageReader) -> torch.dtype:
    output = reader.config.output if reader.config else reader.output
    kinds: Mapping[str, torch.dtype] = {"uint8": torch.uint8, "float32": torch.float32}
    return kinds.get(output, torch.bfloat16)
