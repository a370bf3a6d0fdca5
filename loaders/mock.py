"""NeMo's mock data module: random samples of the right shape, for speed and smoke tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from megatron.energon import Sample, WorkerConfig, edataclass

from ..errors import ConfigError
from ..templates.sample import TokenizedSample
from .blend import Blend
from .energon_loader import StartMethod
from .image_config import Output
from .indexed import IndexedFactory
from .prepared import EncodedText
from .stream_module import StreamDataModule, StreamSettings, read_configs
from .task_encoder import MultiModalTaskEncoder
from .text_rules import TextRules

_SEED = 42
"""NeMo's: sample i is drawn with the seed 42 + i."""
_IMAGE_PLACE = 2
"""NeMo's: the image is the third token."""


@edataclass
class MockSample(Sample):  # type: ignore[misc]
    """The number of a random sample."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MockPart:
    """So many random samples, as a dataset of a blend."""

    samples: int
    name: str = "mock data"
    number: float = 1.0
    shards: None = None

    def __len__(self) -> int:
        return self.samples

    def fingerprint(self) -> dict[str, Any]:
        """How many there are."""
        return {"mock_samples": self.samples}

    def open(self, workers: WorkerConfig, *, training: bool, shuffle: bool) -> IndexedFactory:
        """The samples in energon's terms, in the order of their numbers."""
        return IndexedFactory(self, workers, seed=0, shuffle=False)

    def read(self, index: int) -> MockSample:
        """A sample."""
        return MockSample(
            __key__=f"{index:09d}", __restore_key__=(), __subflavors__={}, index=index
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MockReader:
    """Random pixels in place of an image; its file is the number of its sample."""

    image_size: tuple[int, int] = (336, 336)
    """Height and width."""
    config: None = None
    output: Output = "float32"

    def read(self, data: bytes, *, name: str = "image") -> torch.Tensor:
        """float32[1, 3, height, width] from 0 to 1."""
        random = np.random.default_rng([_SEED, int(data)])
        return torch.from_numpy(random.random((1, 3, *self.image_size), dtype=np.float32))

    def count_tiles(self, data: bytes, *, name: str = "image") -> int:
        """One."""
        return 1

    def describe(self) -> str:
        """In a line."""
        return f"random pixels, {self.image_size[0]} x {self.image_size[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MockEncoder:
    """Random tokens with one image, which fill a row of the model exactly."""

    num_tokens: int
    """One more than the row reads, since labels are shifted."""
    vocab_size: int

    def __call__(self, sample: MockSample, rules: TextRules) -> EncodedText:
        """Tokens below `vocab_size`; loss on all but the image."""
        random = np.random.default_rng(_SEED + sample.index)
        tokens = random.integers(self.vocab_size, size=self.num_tokens, dtype=np.int64)
        tokens[_IMAGE_PLACE] = rules.config.image_token.token_id
        labels = tokens.copy()
        labels[_IMAGE_PLACE] = rules.config.ignore_place_holder
        text = TokenizedSample(tokens=tokens, labels=labels, key=sample.__key__, num_images=1)
        return EncodedText(text=text, images=(b"%d" % sample.index,))


class MockDataModule(StreamDataModule):
    """Streams of random batches, each row with one image and of full length."""

    def __init__(
        self,
        seq_length: int = 2048,
        tokenizer: Any = None,
        image_processor: Any = None,
        micro_batch_size: int = 4,
        global_batch_size: int = 8,
        num_train_samples: int = 10_000_000,
        num_val_samples: int = 10_000,
        num_workers: int = 8,
        num_val_workers: int | None = None,
        pin_memory: bool = True,
        packed_sequence: bool = False,
        *,
        num_image_embeddings_per_tile: int = 576,
        vocab_size: int | None = None,
        image_size: tuple[int, int] = (336, 336),
        data_parallel_rank: int | None = None,
        data_parallel_size: int | None = None,
        data_parallel_group: Any = None,
        start_method: StartMethod = "fork",
    ) -> None:
        """Take the sizes.

        Args:
            seq_length: positions of a row, image embeddings included.
            tokenizer: gives the vocabulary's size and the pad token; else 32,000 and 0.
            image_processor: not used; NeMo has it.
            micro_batch_size: samples of a batch.
            global_batch_size: samples of a step over all ranks.
            num_train_samples: after which training begins again.
            num_val_samples: of a pass of validation.
            num_workers: processes of this rank; 0 draws in this process.
            num_val_workers: of validation; `num_workers` unless given.
            pin_memory: give pixels in pinned memory, where there is a GPU.
            packed_sequence: give packs, of one sample each, as samples are full rows.
            num_image_embeddings_per_tile: positions of the image in the model.
            vocab_size: tokens are below it.
            image_size: height and width.
            data_parallel_rank: as in EnergonMultiModalDataModule.
            data_parallel_size: as in EnergonMultiModalDataModule.
            data_parallel_group: as in EnergonMultiModalDataModule.
            start_method: of worker processes.

        Raises:
            ConfigError: the image alone is longer than a row, or sizes that cannot be.
        """
        num_tokens = seq_length + 1 - (num_image_embeddings_per_tile - 1)
        if num_tokens <= _IMAGE_PLACE + 1:
            raise ConfigError(
                f"seq_length={seq_length}: a row must hold the {num_image_embeddings_per_tile} "
                f"embeddings of an image and {_IMAGE_PLACE + 1} tokens of text at least"
            )
        if min(num_train_samples, num_val_samples) < 1:
            raise ConfigError(
                f"num_train_samples={num_train_samples}, num_val_samples={num_val_samples}: "
                "must be 1 or more"
            )
        words = vocab_size or (len(tokenizer) if tokenizer is not None else 32_000)
        encoder = MultiModalTaskEncoder(
            tokenizer,
            MockReader(image_size=image_size),
            packed_sequence=packed_sequence,
            packed_sequence_size=seq_length if packed_sequence else -1,
            num_image_embeddings_per_tile=num_image_embeddings_per_tile,
            seq_length=seq_length,
        )
        encoder.register_encoder(MockSample, MockEncoder(num_tokens=num_tokens, vocab_size=words))
        self.task_encoder = encoder
        samples = {"train": num_train_samples, "val": num_val_samples}
        read, read_val = read_configs(
            encoder,
            encoder,
            micro_batch_size=micro_batch_size,
            num_workers=num_workers,
            num_val_workers=num_val_workers,
            shuffle_buffer_size=None,
            packing_buffer_size=1,
            seed=0,
        )
        settings = StreamSettings(
            encoder=encoder,
            val_encoder=encoder,
            read=read,
            read_val=read_val,
            global_batch_size=global_batch_size,
            data_parallel_rank=data_parallel_rank,
            data_parallel_size=data_parallel_size,
            data_parallel_group=data_parallel_group,
            start_method=start_method,
            pin_memory=pin_memory,
        )
        super().__init__(
            lambda split: Blend(
                name="mock data", mode="single", parts=(MockPart(samples=samples[split]),)
            ),
            settings,
        )
