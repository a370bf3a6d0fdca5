"""NeMo's energon data module: a dataset on disk becomes the batches of training and validation."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from .blend import DatasetPath, open_blend
from .config import MultiModalSampleConfig
from .energon_loader import StartMethod
from .skips import DEFAULT_MAX_SKIP_RATIO
from .stream_module import StreamDataModule, StreamSettings, read_configs
from .task_encoder import MultiModalTaskEncoder


class EnergonMultiModalDataModule(StreamDataModule):
    """Streams of batches from a dataset that convert or `energon prepare` made.

    Works in a plain loop; for_lightning.py gives Lightning its own class of it:

        data = EnergonMultiModalDataModule(path, tokenizer, image_processor, ...)
        for batch in data.train_dataloader():
            ...
            torch.save(data.state_dict(), ...)
    """

    def __init__(
        self,
        path: DatasetPath,
        tokenizer: Any = None,
        image_processor: Any = None,
        seq_length: int = 2048,
        micro_batch_size: int = 1,
        global_batch_size: int = 1,
        num_workers: int = 1,
        num_val_workers: int | None = None,
        pin_memory: bool = True,
        shuffle_buffer_size: int | None = 100,
        multimodal_sample_config: MultiModalSampleConfig | None = None,
        task_encoder: MultiModalTaskEncoder | None = None,
        packing_buffer_size: int | None = None,
        validation_task_encoder: MultiModalTaskEncoder | None = None,
        *,
        train_split: str = "train",
        val_split: str = "val",
        seed: int = 0,
        max_skip_ratio: float = DEFAULT_MAX_SKIP_RATIO,
        data_parallel_rank: int | None = None,
        data_parallel_size: int | None = None,
        data_parallel_group: Any = None,
        share_shards: bool = False,
        start_method: StartMethod = "fork",
        trust_dataset_code: bool = False,
    ) -> None:
        """Take the settings; the dataset is opened by the first dataloader.

        Args:
            path: a dataset's folder or address (`s3://bucket/shards`; see docs/object-stores.md),
                {folder: weight} for a blend, or the file of an energon metadataset.
            tokenizer: of transformers; not needed with a task encoder.
            image_processor: what MultiModalTaskEncoder takes; not needed with a task encoder.
            seq_length: most positions of a sample, image embeddings included; of the default task
                encoder, as one that is given has its own.
            micro_batch_size: samples of a batch; 1 when packed, where a batch is one pack.
            global_batch_size: samples, or packs, of a step over all ranks.
            num_workers: processes that read for this rank; 0 reads in this process.
            num_val_workers: of validation; `num_workers` unless given.
            pin_memory: give pixels in pinned memory, where there is a GPU.
            shuffle_buffer_size: samples among which the next one is drawn; None keeps the order.
            multimodal_sample_config: of the default task encoder.
            task_encoder: MultiModalTaskEncoder with these settings unless given.
            packing_buffer_size: samples among which packs are chosen; 1024 unless given.
            validation_task_encoder: `task_encoder` unless given.
            train_split: name of the split.
            val_split: name of the split.
            seed: of the shuffling.
            max_skip_ratio: share of bad samples above which an error is raised.
            data_parallel_rank: with `data_parallel_size`; otherwise from Megatron's parallel_state
                or torch.distributed.
            data_parallel_size: number of ranks that read different samples.
            data_parallel_group: their torch.distributed group.
            share_shards: let several readers read one shard.
            start_method: of worker processes.
            trust_dataset_code: run the `sample_loader.py` of a dataset.

        Raises:
            ConfigError: the settings cannot work together.
        """
        if task_encoder is None:
            if tokenizer is None or image_processor is None:
                raise ConfigError(
                    "give a tokenizer and an image_processor, or a task_encoder that has them"
                )
            task_encoder = MultiModalTaskEncoder(
                tokenizer, image_processor, multimodal_sample_config, seq_length=seq_length
            )
        self.path = path
        self.task_encoder = task_encoder
        val_encoder = validation_task_encoder or task_encoder
        read, read_val = read_configs(
            task_encoder,
            val_encoder,
            micro_batch_size=micro_batch_size,
            num_workers=num_workers,
            num_val_workers=num_val_workers,
            shuffle_buffer_size=shuffle_buffer_size,
            packing_buffer_size=packing_buffer_size,
            seed=seed,
        )
        settings = StreamSettings(
            encoder=task_encoder,
            val_encoder=val_encoder,
            read=read,
            read_val=read_val,
            global_batch_size=global_batch_size,
            train_split=train_split,
            val_split=val_split,
            max_skip_ratio=max_skip_ratio,
            data_parallel_rank=data_parallel_rank,
            data_parallel_size=data_parallel_size,
            data_parallel_group=data_parallel_group,
            share_shards=share_shards,
            start_method=start_method,
            pin_memory=pin_memory,
        )
        super().__init__(
            lambda split: open_blend(path, split, trust_dataset_code=trust_dataset_code), settings
        )
