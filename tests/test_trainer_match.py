"""Data and model are compared before anything is built."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from neva_prep.dataprep.lesson import save_processor
from neva_prep.errors import ConfigError
from neva_prep.loaders import MockDataModule, MultiModalSampleConfig, MultiModalTaskEncoder
from neva_prep.trainer import recipes
from neva_prep.trainer.config import NevaConfig
from neva_prep.trainer.editable import finished
from neva_prep.trainer.match import check_data
from neva_prep.trainer.open_data import DataOptions, open_data
from neva_prep.trainer.parallel_config import ParallelConfig
from neva_prep.trainer.recipes import tiny


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Its `<image>` has the id 4."""
    folder = tmp_path_factory.mktemp("processor")
    save_processor(folder)
    return AutoProcessor.from_pretrained(folder)


def data_of(processor: Any, **changes: Any) -> MockDataModule:
    """A data module with a task encoder for the tiny model."""
    settings: dict[str, Any] = {"num_image_embeddings_per_tile": 36} | changes
    encoder = MultiModalTaskEncoder(
        processor.tokenizer,
        processor.image_processor,
        MultiModalSampleConfig(conversation_template_config=None),
        **settings,
    )
    data = tiny.mock_data(tokenizer=processor.tokenizer)
    object.__setattr__(data.settings, "encoder", encoder)
    return data


def check(data: Any, config: NevaConfig | None = None) -> None:
    check_data(data, config or tiny.model_config(), ParallelConfig())


def test_a_pack_may_be_longer_than_the_models_positions_and_a_sample_may_not(
    processor: Any,
) -> None:
    packs = {"packed_sequence": True, "packed_sequence_size": 2000}
    check(data_of(processor, **packs, seq_length=256))
    for limit in ({}, {"seq_length": 257}):
        with pytest.raises(ConfigError, match="in packs of 2000, and the model was made for 256;"):
            check(data_of(processor, **packs, **limit))
    with pytest.raises(ConfigError, match="seq_length=257, and the model was made for 256"):
        check(data_of(processor, seq_length=257))


def test_the_command_lines_packs_take_no_sample_that_is_longer_than_the_model(
    processor: Any, tmp_path: Path
) -> None:
    (tmp_path / "chat.json").write_text("[]")
    neva = finished(tiny.finetune_recipe().model).config
    for length, longest in ((2000, 256), (100, 100)):
        options = DataOptions(path=tmp_path / "chat.json", seq_length=length, pack=True)
        encoder = open_data(options, processor, neva, ParallelConfig()).settings.encoder
        assert (encoder.packed_sequence_size, encoder.rules.max_length) == (length, longest + 1)


def test_the_image_token_is_the_tokenizers_and_a_word_of_the_model(processor: Any) -> None:
    data = data_of(processor, seq_length=256)
    check(data)
    with pytest.raises(ConfigError, match=r"'<image>' has the id 4, and the model's .*index=7,"):
        check(data, tiny.model_config(image_token_index=7))
    for outside in (72, -1):
        with pytest.raises(ConfigError, match=f"index={outside}, and the model has 72 words"):
            check(tiny.mock_data(), tiny.model_config(image_token_index=outside))


def test_a_tokenizer_without_an_image_token_is_that_of_a_language_model(processor: Any) -> None:
    from loader_help import tokenizer

    data = data_of(processor, seq_length=256)
    words = tokenizer()
    assert "<image>" not in words.get_vocab()
    object.__setattr__(data.settings.encoder.preparer.rules, "tokenizer", words)
    check(data, tiny.model_config(vocab_size=len(words), image_token_index=7))


@pytest.mark.parametrize("recipe", ["llava15_7b", "llava15_13b", "neva_llama3_8b", "tiny"])
def test_the_recipes_image_tokens_are_words_of_their_models(recipe: str) -> None:
    config = finished(getattr(recipes, recipe).finetune_recipe().model).config
    assert 0 <= config.image_token_index < config.language_transformer_config.vocab_size
