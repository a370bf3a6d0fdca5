"""How to look at tokens, packs and batches: what `MultiModalTaskEncoder` and a data module need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError

if TYPE_CHECKING:
    from ...loaders.image_config import Fit
    from ...loaders.pixel_reader import PixelReader
    from ...loaders.stream_module import StreamDataModule
    from ...loaders.task_encoder import MultiModalTaskEncoder
    from ...templates.overflow import Overflow
    from ...templates.render import ConversationTemplate, ImagePlacement
    from .open import Looked


@dataclass(frozen=True, slots=True, kw_only=True)
class LookSettings:
    """What training would be given; only what is set can be shown."""

    tokenizer: Any = None
    """Of transformers; None shows no tokens, packs or batches."""
    template: ConversationTemplate | None = None
    """Of conversations; None for NeMo's default."""
    images: Any = None
    """What MultiModalTaskEncoder takes as `image_processor`; None for LLaVA-1.5's square of 336."""
    seq_length: int | None = 2048
    """Most positions of a sample; None for no limit."""
    packed_sequence_size: int | None = None
    """Positions of a pack; None where samples are not packed."""
    num_image_embeddings_per_tile: int = 576
    image_placement: ImagePlacement = "keep"
    overflow: Overflow = "error"
    pack_alignment: int = 1
    micro_batch_size: int = 2
    """Samples of a batch that is not packed."""
    shuffle: bool = False
    """Whether batches are drawn as training draws them, or lie in the order of the dataset."""
    seed: int = 0
    """Of the shuffling."""

    @property
    def has_tokens(self) -> bool:
        """Whether there is enough to show tokens, packs and batches."""
        return self.tokenizer is not None


def build_reader(settings: LookSettings) -> PixelReader:
    """What makes an image into the pixels that the model gets.

    Raises:
        ConfigError: the image processor is none.
    """
    from ...loaders.image_config import ImageConfig
    from ...loaders.pixel_reader import make_pixel_reader

    return make_pixel_reader(settings.images or ImageConfig())


def build_encoder(settings: LookSettings) -> MultiModalTaskEncoder:
    """The task encoder of these settings, as training would build it.

    Raises:
        ConfigError: there is no tokenizer, or the settings cannot work together.
    """
    from ...loaders.task_encoder import MultiModalTaskEncoder

    if settings.tokenizer is None:
        raise ConfigError("tokens, packs and batches need a tokenizer; give --tokenizer")
    return MultiModalTaskEncoder(
        settings.tokenizer,
        build_reader(settings),
        packed_sequence=settings.packed_sequence_size is not None,
        packed_sequence_size=settings.packed_sequence_size or -1,
        num_image_embeddings_per_tile=settings.num_image_embeddings_per_tile,
        seq_length=settings.seq_length,
        overflow=settings.overflow,
        image_placement=settings.image_placement,
        pack_alignment=settings.pack_alignment,
        template=settings.template,
    )


def build_module(looked: Looked, settings: LookSettings) -> StreamDataModule:
    """The data module that trains on what is looked at; the caller closes it.

    A dataset is read by EnergonMultiModalDataModule, a source by NevaLazyDataModule. One rank
    reads, in this process. Bad samples are skipped, however many.

    Raises:
        ConfigError: there is no tokenizer, or the settings cannot work together.
    """
    from ...loaders.data_module import EnergonMultiModalDataModule
    from ...loaders.lazy import ImageDataConfig, NevaLazyDataModule

    if looked.kind == "quarantine":
        raise ConfigError(f"{looked.path}: rejected records are in no batch; give the dataset")
    encoder = build_encoder(settings)
    size = 1 if encoder.packed_sequence else settings.micro_batch_size
    shared: dict[str, Any] = {
        "task_encoder": encoder,
        "micro_batch_size": size,
        "global_batch_size": size,
        "num_workers": 0,
        "seed": settings.seed,
        "pin_memory": False,
        "max_skip_ratio": 1.0,
    }
    if looked.kind == "source":
        config = ImageDataConfig(image_folder=looked.images, val_fraction=0.0)
        return NevaLazyDataModule(looked.path, data_config=config, **shared)
    return EnergonMultiModalDataModule(
        looked.path,
        shuffle_buffer_size=100 if settings.shuffle else None,
        train_split=looked.split or _fullest(looked.splits),
        **shared,
    )


def _fullest(splits: Mapping[str, int]) -> str:
    """The split with most samples."""
    return max(splits, key=lambda split: splits[split], default="train")


def read_images_as(folder: str | None, *, size: int | None = None, fit: Fit | None = None) -> Any:
    """The image processor of a folder, or an ImageConfig of a size and fit.

    Args:
        folder: what `AutoImageProcessor` loads, with a preprocessor_config.json; None for
            LLaVA-1.5's settings.
        size: height and width of a tile, in place of LLaVA-1.5's.
        fit: how a picture comes into its square.

    Raises:
        ConfigError: the folder holds no image processor, or a size is given with a folder.
    """
    from ...loaders.image_config import ImageConfig
    from ...loaders.pixel_reader import make_pixel_reader

    if folder is None:
        default = ImageConfig()
        return ImageConfig(size=size or default.size, fit=fit or default.fit)
    if size is not None:
        raise ConfigError("--image-processor has its own size; leave out --image-size")
    if not Path(folder).is_dir():
        raise ConfigError(f"{folder}: no such folder; give the one that holds the image processor")
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ConfigError(
            f"{folder}: no image processor can be loaded from it ({error}); give a folder with a "
            "preprocessor_config.json"
        ) from error
    return make_pixel_reader(processor, fit=fit)
