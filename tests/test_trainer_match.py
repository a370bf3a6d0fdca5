"""Data and model are compared before anything is built."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from neva_prep.dataprep.lesson import save_processor
from neva_prep.errors import ConfigError
from neva_prep.loaders import MockDataModule, MultiModalSampleConfig, MultiModalTaskEncoder
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
