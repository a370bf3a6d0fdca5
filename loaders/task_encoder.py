"""The task encoder: energon's hooks, each a line or two around a step of the flow.

    cook ──▶ preencode: tokens ──▶ select: packs ──▶ postencode: pixels ──▶ pack ──▶ batch

No pixel is decoded before its pack is chosen. A hook never raises for a bad sample: it leaves the
sample out and notes why (skips.py).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from megatron.energon import (
    Cooker,
    SavableDataset,
    SkipSample,
    TaskEncoder,
    WorkerConfig,
    stateless,
)
from megatron.energon.wrappers import BatchDataset

from ..errors import ConfigError, NevaPrepError
from ..templates.encode import SpecialText
from ..templates.overflow import Overflow
from ..templates.render import ConversationTemplate, ImagePlacement
from .batch import Batch
from .carried_packing import CarriedPackingDataset
from .collate import collate_pack, collate_padded
from .config import MultiModalSampleConfig
from .encoded import RowConfig
from .encoder_settings import check_choices, check_packs
from .pack import build_pack
from .packer import Packer
from .pixel_reader import make_pixel_reader
from .prepare import (
    Preparer,
    SampleEncoder,
    image_size_of,
    media_type_of,
    origin_of,
    pad_id_of,
)
from .prepared import PackedSample, PreparedSample, ReadySample
from .read_image import ImageReader
from .sample import FailedSample, cook_or_fail
from .skips import Note, Tally
from .text_rules import TextRules
from .transfer import Parcel, pack_up


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
                text of their turn, as LLaVA does; interleaved samples have no turns and stay.
            special_text: `escape` encodes content that looks like a special token as plain text,
                `error` skips the sample.
            pack_alignment: a packed sample takes a multiple of so many positions: 2 x context
                parallel x tensor parallel size with sequence parallel, else 2 x context parallel.
                Rows that are not packed know none.
            max_tiles_per_pack: cap on the work of the vision encoder; None for none.
            pad_packs: fill every pack to `packed_sequence_size` with padding.
            template: of conversations, in place of the config's; see `get_template`.

        Raises:
            ConfigError: the settings cannot work together.
        """
        self.packed_sequence = packed_sequence
        self.packed_sequence_size = packed_sequence_size
        reader: ImageReader = (
            image_processor
            if isinstance(image_processor, ImageReader)
            else make_pixel_reader(image_processor)
        )
        config = multimodal_sample_config or MultiModalSampleConfig()
        check_choices(overflow=overflow, image_placement=image_placement, special_text=special_text)
        if packed_sequence:
            check_packs(packed_sequence_size, pack_alignment, pad_packs=pad_packs)
        alignment = pack_alignment if packed_sequence else 1
        limits = [
            limit
            # What a sample takes of a pack is aligned, what is left below that no sample can take.
            for limit in (
                seq_length,
                packed_sequence and packed_sequence_size // alignment * alignment,
            )
            if limit
        ]
        rules = TextRules(
            tokenizer=tokenizer,
            config=config,
            # Shifted, a sample is one shorter; a pack may be filled to the last position.
            max_length=min(limits) + 1 if limits else None,
            overflow=overflow,
            image_embeddings=num_image_embeddings_per_tile,
            image_placement=image_placement,
            special_text=special_text,
            named_template=template,
            reader=reader,
        )
        rows = RowConfig(
            pad_id=pad_id_of(tokenizer),
            image_token_id=config.image_token.token_id,
            ignore_index=config.ignore_place_holder,
            num_image_embeddings_per_tile=num_image_embeddings_per_tile,
            alignment=alignment,
            image_size=image_size_of(reader),
        )
        packer = (
            Packer(pack_length=packed_sequence_size, max_tiles=max_tiles_per_pack)
            if packed_sequence
            else None
        )
        self.preparer = Preparer(rules=rules, rows=rows, reader=reader, packer=packer)
        self.pad_packs = pad_packs
        self._tally = Tally()

    @property
    def rules(self) -> TextRules:
        """How texts become tokens."""
        return self.preparer.rules

    def register_encoder(self, sample_type: str | type, encoder: SampleEncoder) -> None:
        """Use an encoder for a type of sample, also in place of one that is there.

        Args:
            sample_type: the class, or its name.
            encoder: called with a sample and the TextRules; gives the EncodedText. It must be
                a function of its arguments alone, or no stream can be resumed exactly.
        """
        name = sample_type if isinstance(sample_type, str) else sample_type.__name__
        self.preparer.encoders[name] = encoder

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
        packer = self.preparer.packer
        return {
            "packed_sequence": self.packed_sequence,
            "packed_sequence_size": self.packed_sequence_size if self.packed_sequence else None,
            "max_tiles_per_pack": packer.max_tiles if packer else None,
            "pad_packs": self.pad_packs,
            **self.preparer.describe(),
        }

    @stateless  # type: ignore[untyped-decorator]
    def preencode_sample(self, sample: Any) -> PreparedSample:
        """Tokens of a sample, and how long it is; its images are only counted."""
        with _Skipping(self._tally, "tokens", sample):
            if isinstance(sample, FailedSample):
                raise sample.error
            return self.preparer.tokens(sample)

    def select_samples_to_pack(self, samples: list[PreparedSample]) -> list[list[PreparedSample]]:
        """Packs of a full buffer; every sample is in one of them."""
        return self._select(samples, 0)[0]

    @stateless  # type: ignore[untyped-decorator]
    def postencode_sample(self, sample: PreparedSample) -> ReadySample:
        """The sample with the pixels of its images."""
        with _Skipping(self._tally, "pixels", sample):
            return self.preparer.pixels(sample)

    @stateless  # type: ignore[untyped-decorator]
    def pack_selected_samples(self, samples: list[ReadySample]) -> PackedSample:
        """The samples in one row."""
        if not samples:  # The images of all its samples were bad.
            raise SkipSample
        pad_to = self.packed_sequence_size if self.pad_packs else None
        pack = build_pack([sample.encoded for sample in samples], self.preparer.rows, pad_to=pad_to)
        packed: PackedSample = PackedSample.derive_from(
            samples[0], pack=pack, events=[sample.events for sample in samples]
        )
        return packed

    @stateless  # type: ignore[untyped-decorator]
    def batch(self, samples: list[ReadySample] | list[PackedSample]) -> tuple[Parcel, Note]:
        """A batch, packed up to travel, with the note of what was skipped since the last one."""
        batch = self._collate(samples)
        if not len(batch["media"]):
            batch["media"] = batch["media"].to(media_type_of(self.preparer.reader))
        for sample in samples:
            for events in sample.events if isinstance(sample, PackedSample) else [sample.events]:
                self._tally.deliver(events)
        return pack_up(batch), self.drain_note()

    def drain_note(self) -> Note:
        """The note of what was skipped and delivered since the last one."""
        return self._tally.drain()

    def build_batch(
        self,
        dataset: SavableDataset,
        *,
        batch_size: int | None,
        batch_drop_last: bool = False,
        packing_buffer_size: int | None = None,
        worker_config: WorkerConfig,
    ) -> SavableDataset:
        """Energon's chain from samples to batches; with left-overs of packing carried on."""
        if packing_buffer_size is not None:
            dataset = CarriedPackingDataset(
                dataset,
                select=self._select,
                buffer_size=packing_buffer_size,
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

    def _select(
        self, samples: list[PreparedSample], keep: int
    ) -> tuple[list[list[PreparedSample]], list[PreparedSample]]:
        assert self.preparer.packer is not None, "energon packs only where packed_sequence is set"
        return self.preparer.packer.select(
            samples,
            [sample.length for sample in samples],
            tiles=[int(sample.encoded.num_tiles.sum()) for sample in samples],
            keep=keep,
        )

    def _collate(self, samples: Sequence[Any]) -> Batch:
        if self.packed_sequence:
            return collate_pack(samples[0].pack, self.preparer.rows)
        return collate_padded([sample.encoded for sample in samples], self.preparer.rows)


class _Skipping:
    """Turns a fault of a sample into a note and energon's SkipSample; others pass."""

    def __init__(self, tally: Tally, stage: str, sample: Any) -> None:
        self._tally = tally
        self._stage = stage
        self._sample = sample

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self._tally.passed(self._stage)
        elif isinstance(error, NevaPrepError) and not isinstance(error, ConfigError):
            self._tally.skip(error, self._stage, origin_of(self._sample))
            raise SkipSample from error
