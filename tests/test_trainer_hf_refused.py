"""What Hugging Face's files say and do not mean, and what they mean and would not be read as."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, MistralConfig

from neva_prep.errors import ConfigError
from neva_prep.trainer import adapter_read, hf_import
from neva_prep.trainer.hf_files import WeightFolder
from neva_prep.trainer.hf_language import language_from_hf, language_to_hf
from neva_prep.trainer.hf_load import fill
from neva_prep.trainer.hf_map import same
from neva_prep.trainer.language_config import LanguageConfig

HALF: dict[str, Any] = {
    "rope_type": "default",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
}


def saved(folder: Path, weights: dict[str, Tensor]) -> WeightFolder:
    save_file(weights, folder / "model.safetensors")
    return WeightFolder(folder)


@pytest.mark.parametrize("made", [LlamaConfig, MistralConfig])
def test_whole_heads_are_rotated_where_hugging_face_rotates_them(made: Any) -> None:
    settings = made(rope_parameters=HALF).to_dict()
    assert language_from_hf(settings, "").rotary_percent == 1.0


def test_a_llama_has_no_window_whatever_its_settings_say() -> None:
    assert language_from_hf(LlamaConfig(sliding_window=5).to_dict(), "").window_size is None
    assert language_from_hf(MistralConfig(sliding_window=5).to_dict(), "").window_size == 5


@pytest.mark.parametrize("setting", [{"window_size": 5}, {"rotary_percent": 0.5}])
def test_a_decoder_that_its_family_cannot_be_is_not_exported(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"llama has no {next(iter(setting))}"):
        language_to_hf(LanguageConfig(**setting))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantized_weights_are_not_read_as_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = saved(tmp_path, {"lm_head.weight": torch.ones(2, 2).to(dtype)})
    ties = {"w": same("w", "lm_head.weight")}
    with pytest.raises(ConfigError, match=r"lm_head.weight is quantized"):
        fill([("w", nn.Parameter(torch.zeros(2, 2)))], ties, folder)


def test_a_tied_output_layer_that_is_another_is_refused(tmp_path: Path) -> None:
    words = torch.ones(3, 2)
    weights = {"model.embed_tokens.weight": words, "lm_head.weight": words.clone()}
    # The export writes the embedding alone: this copy would be that of before the training.
    assert hf_import._tied_output(saved(tmp_path, weights)) == {"lm_head.weight"}
    (tmp_path / "other").mkdir()
    weights["lm_head.weight"] = words * 2
    with pytest.raises(ConfigError, match="is not embed_tokens"):
        hf_import._tied_output(saved(tmp_path / "other", weights))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda"])
def test_an_adapter_that_changes_the_models_own_weights_is_refused(
    tmp_path: Path, start: str
) -> None:
    settings = {"peft_type": "LORA", "init_lora_weights": start, "r": 2, "lora_alpha": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=f"init_lora_weights='{start}'"):
        adapter_read._read_settings(tmp_path)
