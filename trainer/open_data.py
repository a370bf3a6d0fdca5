"""The data module of a command line: a dataset's folder, or LLaVA's JSON and its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..loaders import (
    EnergonMultiModalDataModule,
    ImageDataConfig,
    MultiModalSampleConfig,
    MultiModalTaskEncoder,
    NevaLazyDataModule,
)
from ..templates.library import get_template
from .check import row_multiple
from .config import NevaConfig
from .parallel_config import ParallelConfig

_JSON = (".json", ".jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """What a command line says of the data."""

    path: Path
    images: Path | None = None
    """Of a JSON file."""
    template: str | None = None
    """A name; `tokenizer` for the tokenizer's own; None for NeMo's."""
    seq_length: int = 4096
    """Of a row; no sample of a pack is longer than the model's positions."""
    pack: bool = False
    """Several samples in a row of `seq_length`."""
    micro_batch_size: int = 1
    global_batch_size: int = 1
    num_workers: int = 2


def open_data(
    options: DataOptions, processor: Any, neva: NevaConfig, parallel: ParallelConfig
) -> EnergonMultiModalDataModule | NevaLazyDataModule:
    """The data module that a model is trained with.

    Args:
        options: of the command line.
        processor: of transformers, with a tokenizer and an image processor.
        neva: the model, its shapes known.
        parallel: the layout, which packs must suit.

    Raises:
        ConfigError: the options cannot work together.
    """
    positions = neva.language_transformer_config.seq_length
    encoder = MultiModalTaskEncoder(
        processor.tokenizer,
        processor.image_processor,
        _sample_config(options.template),
        packed_sequence=options.pack,
        packed_sequence_size=options.seq_length if options.pack else -1,
        num_image_embeddings_per_tile=neva.num_image_embeddings_per_tile,
        seq_length=min(options.seq_length, positions) if options.pack else options.seq_length,
        pack_alignment=row_multiple(parallel),
        pad_packs=parallel.pipeline_model_parallel_size > 1,
        template=_template(options.template),
    )
    sizes: dict[str, Any] = {
        "micro_batch_size": options.micro_batch_size,
        "global_batch_size": options.global_batch_size,
        "num_workers": options.num_workers,
        "task_encoder": encoder,
    }
    if options.path.suffix.lower() in _JSON:
        images = options.images or options.path.parent
        config = ImageDataConfig(image_folder=images)
        return NevaLazyDataModule(options.path, data_config=config, **sizes)
    if options.images is not None:
        raise ConfigError(
            f"--images {options.images}: the samples of {options.path} have their images with "
            "them; leave it out"
        )
    return EnergonMultiModalDataModule(options.path, **sizes)


def load_processor(folder: Path) -> Any:
    """Tokenizer and image processor of a folder.

    Raises:
        ConfigError: they cannot be read.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder}: has no processor that can be read ({str(error).splitlines()[0]}); give "
            "--processor, a folder with the tokenizer's and the image processor's files"
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ConfigError(
            f"{folder}: has a {type(processor).__name__}, and a tokenizer and an image processor "
            "are needed; give --processor"
        )
    return processor


def _sample_config(template: str | None) -> MultiModalSampleConfig:
    if template == "tokenizer":
        return MultiModalSampleConfig(conversation_template_config=None)
    return MultiModalSampleConfig()


def _template(name: str | None) -> Any:
    return None if name in (None, "tokenizer") else get_template(name)
