"""Recipes: what they hold, how they are changed, and what is refused before anything is built."""

import re
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from neva_prep.errors import ConfigError
from neva_prep.loaders import MockDataModule
from neva_prep.trainer import LoRA, recipes
from neva_prep.trainer.check import effective
from neva_prep.trainer.editable import Editable, finished, replace_texts
from neva_prep.trainer.match import check_data
from neva_prep.trainer.parallel_config import ComputeConfig
from neva_prep.trainer.recipe import Recipe
from neva_prep.trainer.start import find_start, restored_checkpoint


@pytest.fixture
def tiny(tmp_path: Path) -> Editable:
    return recipes.tiny.finetune_recipe(dir=str(tmp_path), name="run")


def test_the_pages_call_gives_nemos_numbers() -> None:
    finetune = recipes.llava15_7b.finetune_recipe(
        name="llava15_7b_finetune",
        dir="/path/to/checkpoints",
        num_nodes=1,
        num_gpus_per_node=8,
        peft_scheme="lora",
    )
    assert finetune.optim.lr == 1e-4
    assert finetune.optim.betas == (0.9, 0.95)
    assert finetune.lr_scheduler.min_lr == 2e-7
    assert finetune.trainer.max_steps == 5190
    assert finetune.trainer.compute.precision == "bf16"
    assert (finetune.peft.dim, finetune.peft.alpha) == (32, 32)
    assert not finetune.peft.freeze_vision_model
    assert finetune.data.settings.global_batch_size == 128
    assert finetune.data.settings.read.micro_batch_size == 2
    assert isinstance(finished(finetune), Recipe)


@pytest.mark.parametrize("name", ["llava15_7b", "llava15_13b", "neva_llama3_8b"])
def test_without_adapters_the_language_model_is_trained_and_the_encoder_is_not(name: str) -> None:
    module = getattr(recipes, name)
    whole = module.finetune_recipe(peft_scheme="none")
    assert whole.peft is None
    assert whole.optim.lr == 2e-5
    assert whole.model.config.freeze_vision_model
    assert not whole.model.config.freeze_language_model
    assert whole.trainer.strategy.tensor_model_parallel_size == 2
    assert whole.trainer.strategy.sequence_parallel


@pytest.mark.parametrize("name", ["llava15_7b", "llava15_13b", "neva_llama3_8b"])
def test_pretraining_trains_the_projector_alone(name: str) -> None:
    stage = getattr(recipes, name).pretrain_recipe(language_model="hf://some/language-model")
    config = stage.model.config
    assert (config.freeze_language_model, config.freeze_vision_model) == (True, True)
    assert not config.freeze_vision_projection
    assert config.language_model_from_pretrained == "hf://some/language-model"
    assert stage.optim.lr == 1e-3


def test_the_shapes_are_those_of_the_model() -> None:
    big = recipes.llava15_13b.finetune_recipe().model.config.language_transformer_config
    assert (big.num_layers, big.hidden_size, big.ffn_hidden_size) == (40, 5120, 13824)
    llama = recipes.neva_llama3_8b.finetune_recipe().model.config.language_transformer_config
    assert (llama.num_query_groups, llama.rotary_base) == (8, 500000.0)


@pytest.mark.parametrize("name", ["llava15_7b", "tiny"])
def test_an_unknown_scheme_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="'qlora'"):
        getattr(recipes, name).finetune_recipe(peft_scheme="qlora")


def test_assignments_reach_the_recipe_at_any_depth(tiny: Editable) -> None:
    data = MockDataModule(seq_length=640)
    tiny.data = data
    tiny.peft = LoRA(target_modules=["linear_qkv"])
    tiny.peft.target_modules = ["*.language_model.*.linear_qkv"]
    tiny.peft.freeze_vision_model = True
    tiny.resume.restore_config.path = "somewhere"
    plan = finished(tiny)
    assert plan.data is data
    assert plan.peft.target_modules == ["*.language_model.*.linear_qkv"]
    assert plan.resume.restore_config.path == "somewhere"


def test_a_handle_taken_earlier_writes_to_the_same_recipe(tiny: Editable) -> None:
    trainer = tiny.trainer
    trainer.max_steps = 7
    trainer.val_check_interval = 3
    assert finished(tiny).trainer.max_steps == 7
    assert finished(tiny).trainer.val_check_interval == 3


def test_replace_leaves_the_recipe_as_it_is(tiny: Editable) -> None:
    other = tiny.replace({"trainer.max_steps": 3}, seed=5)
    assert (other.trainer.max_steps, other.seed) == (3, 5)
    assert (tiny.trainer.max_steps, tiny.seed) == (1500, 1234)


def test_a_wrong_name_is_refused_with_the_right_one(tiny: Editable) -> None:
    with pytest.raises(ConfigError, match="did you mean max_steps"):
        tiny.trainer.max_step = 3
    with pytest.raises(ConfigError, match="TrainerSettings has no 'colour'; it has"):
        tiny.replace({"trainer.colour": 3})
    with pytest.raises(ConfigError, match="peft is None"):
        tiny.replace({"peft.dim": 3})


def test_a_value_is_checked_where_it_is_set(tiny: Editable) -> None:
    with pytest.raises(ConfigError, match="max_steps=0"):
        tiny.trainer.max_steps = 0
    assert tiny.trainer.max_steps == 1500


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("trainer.compute.precision", "32-true", "'fp32', 'bf16', 'fp8'"),
        ("trainer.compute.recompute", "Full", "'full', 'selective' or None"),
        ("trainer.compute.fused", "no", "True or False or None"),
        ("trainer.compute", ComputeConfig(precision="fp16"), "'bf16'"),  # type: ignore[arg-type]
        ("trainer.max_steps", "10", "a whole number"),
        ("trainer.max_steps", 10.5, "a whole number"),
        ("trainer.max_steps", True, "a whole number"),
        ("trainer.val_check_interval", 0.25, "a whole number"),
        ("trainer.limit_val_batches", 0, "None is the whole split"),
        ("trainer.strategy", None, "a ParallelConfig"),
        ("optim.lr", "1e-4", "a finite number"),
        ("optim.lr", float("nan"), "a finite number"),
        ("optim.clip_grad", None, "a finite number"),
        ("optim.betas", (0.9,), "2 values"),
        ("optim.state_precision", "fp16", "'fp32', 'bf16'"),
        ("peft", "lora", "a LoRA or None"),
        ("peft", LoRA(target_modules=[3]), "each a text"),  # type: ignore[list-item]
        ("resume.resume_if_exists", "false", "True or False"),
        ("model.config.freeze_vision_model", "False", "True or False"),
        ("model.config.language_transformer_config.activation", "gelu", "'squared_relu'"),
        ("seed", "a", "a whole number"),
    ],
)
def test_a_value_of_another_kind_is_refused(
    tiny: Editable, name: str, value: Any, allowed: str
) -> None:
    before = repr(tiny)
    with pytest.raises(ConfigError, match=re.escape(name.rpartition(".")[2])) as caught:
        tiny.replace({name: value})
    assert allowed in str(caught.value)
    *parents, last = name.split(".")
    handle = reduce(getattr, parents, tiny)
    with pytest.raises(ConfigError, match=re.escape(allowed)):
        setattr(handle, last, value)
    assert repr(tiny) == before


def test_a_recipe_of_values_of_another_kind_is_not_built(tiny: Editable) -> None:
    compute = ComputeConfig(precision="32-true")  # type: ignore[arg-type]
    trainer = replace(finished(tiny).trainer, compute=compute)
    with pytest.raises(ConfigError, match=r"trainer\.compute\.precision='32-true': must be 'fp32'"):
        replace(finished(tiny), trainer=trainer)


def test_whole_numbers_lists_and_paths_stand_for_what_they_mean(
    tiny: Editable, tmp_path: Path
) -> None:
    tiny.optim.lr = 1
    tiny.optim.betas = [0.8, 0.9]
    tiny.log.dir = tmp_path / "runs"
    tiny.resume.restore_config.path = tmp_path
    assert finished(tiny).log.dir == str(tmp_path / "runs")
    assert finished(tiny).resume.restore_config.path == str(tmp_path)
    for name in ("tiny", "llava15_7b"):
        made = getattr(recipes, name).finetune_recipe(dir=tmp_path)
        assert made.log.dir == str(tmp_path)


def test_texts_are_read_as_their_fields_are_typed(tiny: Editable) -> None:
    tiny.peft = LoRA()
    plan = replace_texts(
        finished(tiny),
        {
            "trainer.max_steps": "1_0",
            "trainer.limit_val_batches": "none",
            "optim.lr": "3e-4",
            "optim.betas": "0.8,0.9",
            "optim.use_distributed_optimizer": "true",
            "trainer.compute.recompute": "full",
            "trainer.compute.precision": "bf16",
            "peft.target_modules": "linear_qkv, linear_proj",
            "log.name": "other",
        },
    )
    assert plan.trainer.max_steps == 10
    assert plan.trainer.limit_val_batches is None
    assert plan.optim.lr == 3e-4
    assert plan.optim.betas == (0.8, 0.9)
    assert plan.optim.use_distributed_optimizer is True
    assert plan.trainer.compute.recompute == "full"
    assert plan.trainer.compute.precision == "bf16"
    assert plan.peft.target_modules == ("linear_qkv", "linear_proj")
    assert plan.log.name == "other"


@pytest.mark.parametrize(
    "text",
    [
        "trainer.max_steps=many",
        "trainer.compute.precision=fp4",
        "optim.lr=fast",
        "optim.lr=nan",
        "optim.betas=0.9",
        "optim.betas=0.9,0.9,0.9",
        "trainer.limit_val_batches=0",
        "peft=lora",
    ],
)
def test_a_text_of_another_type_is_refused(tiny: Editable, text: str) -> None:
    name, _, value = text.partition("=")
    with pytest.raises(ConfigError, match=name.rpartition(".")[2]):
        replace_texts(finished(tiny), {name: value})


def test_a_recipe_prints_every_setting(tiny: Editable) -> None:
    tiny.trainer.max_steps = 4321
    shown = repr(tiny)
    assert "max_steps=4321," in shown
    assert "hidden_size=64," in shown
    assert "MockDataModule(micro_batch_size=4, global_batch_size=8" in shown


def refused(tiny: Editable, **data: Any) -> str:
    plan = finished(tiny)
    module = recipes.tiny.mock_data(**data)
    with pytest.raises(ConfigError) as caught:
        check_data(module, plan.model.config, effective(plan.trainer.strategy))
    return str(caught.value)


def test_data_for_another_model_are_refused_before_training(tiny: Editable) -> None:
    assert "makes 36 of a tile" in refused(tiny, num_image_embeddings_per_tile=16)
    assert "336x336" in refused(tiny, image_size=(336, 336))
    assert "seq_length=512" in refused(tiny, seq_length=512)


def test_packs_that_the_layout_cannot_cut_are_refused(tiny: Editable) -> None:
    packed = {"packed_sequence": True, "micro_batch_size": 1}
    tiny.trainer.strategy.context_parallel_size = 2
    assert "pack_alignment=4" in refused(tiny, **packed)
    tiny.trainer.strategy.context_parallel_size = 1
    tiny.trainer.strategy.pipeline_model_parallel_size = 2
    assert "pad_packs=True" in refused(tiny, **packed)


def test_what_is_no_data_module_is_refused(tiny: Editable) -> None:
    with pytest.raises(ConfigError, match="is no data module"):
        check_data(["batch"], finished(tiny).model.config, finished(tiny.trainer.strategy))


def test_weights_that_are_not_there_are_named_with_the_way_to_get_them(
    tiny: Editable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEVA_PREP_CACHE", str(tmp_path / "cache"))
    for path in ("hf://some/model", "nemo://some/model"):
        with pytest.raises(ConfigError, match="neva-prep import hf://some/model"):
            restored_checkpoint(path)
    tiny.resume.restore_config.path = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        find_start(finished(tiny))
    (tmp_path / "cache/models/some/model").mkdir(parents=True)
    assert restored_checkpoint("nemo://some/model") == tmp_path / "cache/models/some/model"


def test_another_number_of_processes_is_refused(tiny: Editable) -> None:
    from neva_prep.trainer.loop import fit

    tiny.trainer.devices = 8
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node 8"):
        fit(tiny)


def test_a_rate_below_the_one_that_it_falls_to_is_refused(tiny: Editable) -> None:
    """It would rise instead, to the recipe's least rate."""
    from neva_prep.trainer.loop import fit

    tiny.optim.lr, tiny.trainer.max_steps = 1e-5, 1
    with pytest.raises(ConfigError, match=r"optim.lr=1e-05.*min_lr=0.0001.*--set"):
        fit(tiny)
