"""Whether the data suit the model and its layout: asked before anything is built."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from .check import row_multiple
from .config import NevaConfig
from .parallel_config import ParallelConfig


def row_length(data: Any) -> int:
    """Positions of a row, of a data module: of a pack, or the most of a sample.

    Raises:
        ConfigError: it has no limit.
    """
    encoder = data.settings.encoder
    if encoder.packed_sequence:
        return int(encoder.packed_sequence_size)
    if encoder.rules.max_length is None:
        raise ConfigError(
            "data: the task encoder has no seq_length, so a long sample could exhaust the memory; "
            "give MultiModalTaskEncoder(seq_length=...)"
        )
    return longest_sample(data)


def longest_sample(data: Any) -> int:
    """Most positions of a sample, of a data module that has a limit."""
    # The tokens are shifted, which takes one off.
    return int(data.settings.encoder.rules.max_length) - 1


def check_data(data: Any, neva: NevaConfig, parallel: ParallelConfig) -> None:
    """Refuse data that the model would read wrongly, or fail at much later.

    Args:
        data: a data module of the loaders.
        neva: the model, its shapes known.
        parallel: as it is run.

    Raises:
        ConfigError: the message has both numbers.
    """
    if not hasattr(data, "train_dataloader") or not hasattr(data, "settings"):
        raise ConfigError(
            f"data={data!r}: is no data module; use EnergonMultiModalDataModule, "
            "NevaLazyDataModule or MockDataModule of neva_prep.loaders"
        )
    encoder = data.settings.encoder
    rows = encoder.preparer.rows
    _check_images(encoder.preparer, neva)
    _check_words(encoder.rules.tokenizer, neva)
    _check_length(data, neva.language_transformer_config.seq_length)
    multiple = row_multiple(parallel)
    if encoder.packed_sequence and rows.alignment % multiple:
        raise ConfigError(
            f"data: pack_alignment={rows.alignment}, and this layout cuts packed samples into "
            f"pieces, so each must take a multiple of {multiple}; give MultiModalTaskEncoder("
            f"pack_alignment={multiple})"
        )
    if (
        encoder.packed_sequence
        and parallel.pipeline_model_parallel_size > 1
        and not encoder.pad_packs
    ):
        raise ConfigError(
            "data: packs of different lengths do not pass a pipeline, whose stages wait for rows "
            "of one length; give MultiModalTaskEncoder(pad_packs=True)"
        )


def image_statistics(data: Any) -> dict[str, tuple[float, ...]]:
    """The mean and standard deviation that uint8 pixels are normalized with, for build_training."""
    config = getattr(data.settings.encoder.preparer.reader, "config", None)
    return {} if config is None else {"image_mean": config.mean, "image_std": config.std}


def _check_length(data: Any, positions: int) -> None:
    """A pack may be longer than the model's positions, which begin anew with each sample."""
    row = row_length(data)
    longest = longest_sample(data)
    if longest <= positions:
        return
    if data.settings.encoder.packed_sequence:
        raise ConfigError(
            f"data: samples of up to {longest} positions in packs of {row}, and the model was made "
            f"for {positions}; give MultiModalTaskEncoder(seq_length={positions}), beside which "
            "packs may be longer, or make the model's larger if its positions can be stretched"
        )
    raise ConfigError(
        f"data: seq_length={longest}, and the model was made for {positions} positions; make the "
        "data's smaller, or the model's larger if its positions can be stretched"
    )


def _check_images(preparer: Any, neva: NevaConfig) -> None:
    rows, reader = preparer.rows, preparer.reader
    ours, theirs = neva.num_image_embeddings_per_tile, rows.num_image_embeddings_per_tile
    if ours != theirs:
        raise ConfigError(
            f"data: num_image_embeddings_per_tile={theirs}, and the model makes {ours} of a tile, "
            "so its rows would be of other lengths than the data's; give the data module or its "
            f"task encoder num_image_embeddings_per_tile={ours}"
        )
    size = getattr(reader, "image_size", None) or (reader.config and (reader.config.size,) * 2)
    if size and tuple(size) != neva.image_size:
        raise ConfigError(
            f"data: images of {size[0]}x{size[1]} pixels, and the vision encoder takes "
            f"{neva.image_size[0]}x{neva.image_size[1]}; use the image processor of the same model"
        )


def _check_words(tokenizer: Any, neva: NevaConfig) -> None:
    size, index = neva.language_transformer_config.vocab_size, neva.image_token_index
    if not 0 <= index < size:
        raise ConfigError(
            f"model: image_token_index={index}, and the model has {size} words; set "
            "model.config.image_token_index to the id of the tokenizer's image token"
        )
    if tokenizer is None:
        return
    owner = getattr(tokenizer, "tokenizer", tokenizer)
    words = len(owner)
    if words > size:
        raise ConfigError(
            f"data: the tokenizer has {words} words and the model {size}; use the tokenizer of the "
            "same model"
        )
    word, theirs = _image_word(owner)
    if theirs not in (None, index):
        raise ConfigError(
            f"data: the tokenizer's {word!r} has the id {theirs}, and the model's "
            f"image_token_index={index}, so no export could be run with that tokenizer; set "
            f"model.config.image_token_index={theirs}, or use the tokenizer of the same model"
        )


def _image_word(tokenizer: Any) -> tuple[str, int | None]:
    """The image token and its id; no id where the tokenizer has none, as that of a language model.

    Training knows images by another mark: the id is what an export looks for.
    """
    word = getattr(tokenizer, "image_token", None) or "<image>"
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    return word, vocabulary.get(word)
