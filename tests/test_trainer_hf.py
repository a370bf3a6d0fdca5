"""Our model computes what Hugging Face's LLaVA computes, and goes there and back unchanged."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from trainer_help import one_rank, packed_batch, padded_batch
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    NemotronConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from neva_prep.errors import ConfigError
from neva_prep.trainer import (
    HFCLIPVisionConfig,
    InternViTModel,
    Llama31Config8B,
    LlavaModel,
    MultimodalProjectorConfig,
    NevaConfig,
    NevaModel,
    VisionModel,
    expand_batch,
    export_ckpt,
    import_ckpt,
)
from neva_prep.trainer.hf_config import (
    neva_from_hf,
    neva_to_hf,
    read_config,
    read_vision,
    tower_source,
)
from neva_prep.trainer.hf_files import WeightFolder, canonical
from neva_prep.trainer.hf_language import language_to_hf
from neva_prep.trainer.hf_load import load_hf_weights, load_pretrained, load_vision, own_piece
from neva_prep.trainer.hf_map import model_ties
from neva_prep.trainer.hf_write import write_hf_folder

IMAGE_TOKEN = 120
TEXT: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
VISION: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
TEXTS = {
    "llama": lambda: LlamaConfig(**TEXT | {"num_key_value_heads": 8}),
    "llama3": lambda: LlamaConfig(**TEXT, rope_parameters=LLAMA_3),
    "mistral": lambda: MistralConfig(**TEXT, sliding_window=9),
    "nemotron": lambda: NemotronConfig(**TEXT),
    "qwen2": lambda: Qwen2Config(**TEXT),
    "qwen2-tied": lambda: Qwen2Config(**TEXT, tie_word_embeddings=True),
}
VISIONS = {
    "clip": lambda: CLIPVisionConfig(**VISION),
    "siglip": lambda: SiglipVisionConfig(**VISION),
    "internvl": lambda: InternVLVisionConfig(**VISION, attention_bias=True),
}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "clip", {}),
    ("llama3", "clip", {"vision_feature_layer": -1}),
    ("mistral", "clip", {"vision_feature_select_strategy": "full"}),
    ("nemotron", "siglip", {"vision_feature_select_strategy": "full"}),
    ("qwen2", "internvl", {"vision_feature_layer": 2}),
    ("qwen2-tied", "siglip", {"vision_feature_select_strategy": "full"}),
]
NAMES = ["-".join(case[:2]) for case in CASES]


@dataclass(frozen=True)
class Pair:
    """The same model twice."""

    folder: Path
    theirs: Any
    ours: Any
    config: NevaConfig


def make_theirs(text: str, vision: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=VISIONS[vision](),
        text_config=TEXTS[text](),
        image_token_index=IMAGE_TOKEN,
        **settings,
    )
    model = LlavaForConditionalGeneration(config).eval()
    for weight in model.parameters():  # far from where they start, so that each one counts
        if weight.dim() > 1:
            weight.data.normal_(0, 0.1)
        else:
            weight.data.add_(torch.randn_like(weight) * 0.05)
    return model


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    one_rank()
    yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def make(number: int) -> Pair:
        text, vision, settings = CASES[number]
        theirs = make_theirs(text, vision, **settings)
        folder = tmp_path_factory.mktemp(text) / "hf"
        theirs.save_pretrained(folder)
        (folder / "tokenizer_config.json").write_text('{"image_token": "<image>"}')
        config = neva_from_hf(read_config(folder), str(folder))
        ours = NevaModel(config).build().eval()
        load_hf_weights(ours, WeightFolder(folder))
        return Pair(folder, theirs, ours, config)

    return make


@pytest.fixture(params=range(len(CASES)), ids=NAMES)
def pair(pairs: Any, request: pytest.FixtureRequest) -> Pair:
    made: Pair = pairs(request.param)
    return made


def expanded(config: NevaConfig, **inputs: Any) -> Any:
    per_tile = config.num_image_embeddings_per_tile
    return expand_batch(padded_batch(config, **inputs), num_image_embeddings_per_tile=per_tile)


def their_logits(model: Any, batch: Any) -> Tensor:
    ids = batch.input_ids.where(batch.image_index < 0, IMAGE_TOKEN)
    logits: Tensor = model(input_ids=ids, pixel_values=batch.media).logits
    return logits


def our_logits(model: Any, batch: Any, **changes: Any) -> Tensor:
    inputs = batch.model_inputs() | {"labels": None} | changes
    logits: Tensor = model(**inputs)
    return logits


def same_weights(one: Path, other: Path) -> bool:
    before, after = (load_file(folder / "model.safetensors") for folder in (one, other))
    before, after = ({canonical(n): w for n, w in x.items()} for x in (before, after))
    return before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before
    )


@torch.no_grad()
def test_logits_are_those_of_hugging_face(pair: Pair) -> None:
    batch = expanded(pair.config)
    theirs, ours = their_logits(pair.theirs, batch), our_logits(pair.ours, batch)
    assert theirs.abs().max() > 1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    blank = our_logits(pair.ours, batch, media=torch.zeros_like(batch.media))
    assert (blank - ours).abs().max() > 0.01


def test_gradients_are_those_of_hugging_face(pair: Pair) -> None:
    batch = expanded(pair.config)
    trained = batch.labels >= 0
    logits = their_logits(pair.theirs, batch)
    their_losses = torch.nn.functional.cross_entropy(
        logits[trained], batch.labels[trained], reduction="none"
    )
    our_losses = pair.ours(**batch.model_inputs())
    torch.testing.assert_close(our_losses[trained], their_losses, atol=1e-5, rtol=0)
    pair.theirs.zero_grad()
    pair.ours.zero_grad()
    torch.autograd.backward(their_losses.sum())
    (our_losses * batch.loss_mask).sum().backward()
    gradients = {canonical(n): w.grad for n, w in pair.theirs.named_parameters()}
    ours = dict(pair.ours.named_parameters())
    compared = 0
    for tie in model_ties(pair.config):
        if tie.ours in ours:
            expected = tie.join([gradients[name] for name in tie.theirs])
            error = (ours[tie.ours].grad - expected).abs().max() / expected.abs().max()
            assert error < 1e-5, (tie.ours, error)
            compared += 1
    assert compared == len(ours)


@torch.no_grad()
def test_a_packed_row_is_its_samples_one_by_one(pair: Pair) -> None:
    per_tile = pair.config.num_image_embeddings_per_tile
    rows = expanded(pair.config)
    pack = expand_batch(
        packed_batch(pair.config, alignment=8), num_image_embeddings_per_tile=per_tile
    )
    apart = pair.ours(**rows.model_inputs())[rows.loss_mask > 0]
    together = pair.ours(**pack.model_inputs())[pack.loss_mask > 0]
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_export_is_the_model_in_hugging_face(pair: Pair, tmp_path: Path) -> None:
    write_hf_folder(pair.ours, tmp_path / "out", shard_size_bytes=60_000)
    back, report = LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values())
    batch = expanded(pair.config)
    assert torch.equal(their_logits(back, batch), their_logits(pair.theirs, batch))
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert neva_from_hf(read_config(tmp_path / "out"), "") == pair.config


def test_settings_survive_the_way_there_and_back(pair: Pair) -> None:
    settings = LlavaConfig(**neva_to_hf(pair.config)).to_dict()
    assert neva_from_hf(settings, "") == pair.config


@torch.no_grad()
def test_heads_of_another_size_survive_the_way_there_and_back(tmp_path: Path) -> None:
    # Qwen2's config has no head_dim of its own, and takes one.
    config = LlavaConfig(
        text_config=Qwen2Config(**TEXT, head_dim=16),
        vision_config=VISIONS["clip"](),
        image_token_index=IMAGE_TOKEN,
    )
    theirs = LlavaForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path / "hf")
    out = export_ckpt(import_ckpt(None, tmp_path / "hf", tmp_path / "ckpt"), tmp_path / "out")
    back = LlavaForConditionalGeneration.from_pretrained(out).eval()
    batch = expanded(neva_from_hf(read_config(out), ""))
    assert torch.equal(their_logits(back, batch), their_logits(theirs, batch))


@pytest.mark.parametrize("has_file", [True, False])
def test_an_export_stops_where_its_source_does(tmp_path: Path, has_file: bool) -> None:
    """Without generation_config.json transformers takes the tokens from config.json."""
    text = Qwen2Config(**TEXT, head_dim=16, eos_token_id=7, bos_token_id=6, pad_token_id=5)
    config = LlavaConfig(
        text_config=text, vision_config=VISIONS["clip"](), image_token_index=IMAGE_TOKEN
    )
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "hf")
    if not has_file:
        (tmp_path / "hf" / "generation_config.json").unlink()
    out = export_ckpt(import_ckpt(None, tmp_path / "hf", tmp_path / "ckpt"), tmp_path / "out")
    found = [
        LlavaForConditionalGeneration.from_pretrained(folder).generation_config.to_dict()
        for folder in (tmp_path / "hf", out)
    ]
    assert found[0]["eos_token_id"] == 7
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        assert found[0][name] == found[1][name], name


def test_rotary_frequencies_of_llama_31_are_hugging_faces() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from neva_prep.trainer.rope import rotary_frequencies

    config = Llama31Config8B()  # of its 64 frequencies some are kept, some stretched, some between
    theirs = LlamaConfig(**language_to_hf(config))
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, "cpu")
    torch.testing.assert_close(rotary_frequencies(config), expected, rtol=1e-6, atol=0)


@torch.no_grad()
def test_hugging_faces_own_tower_gives_the_same(pairs: Any) -> None:
    for number in (0, 2, 3):
        pair = pairs(number)
        shape = pair.config.vision_transformer_config
        tower = HFCLIPVisionConfig(pretrained_model_name_or_path=str(pair.folder), shape=shape)
        model = NevaModel(replace(pair.config, vision_transformer_config=tower)).build().eval()
        load_hf_weights(model, WeightFolder(pair.folder))
        batch = expanded(pair.config)
        torch.testing.assert_close(our_logits(model, batch), our_logits(pair.ours, batch))


def test_a_checkpoint_with_hugging_faces_tower_goes_there_and_back(
    pairs: Any, tmp_path: Path
) -> None:
    pair = pairs(3)
    tower = HFCLIPVisionConfig(pretrained_model_name_or_path=str(pair.folder))
    asked = NevaModel(replace(pair.config, vision_transformer_config=tower))
    exported = export_ckpt(import_ckpt(asked, pair.folder, tmp_path / "ckpt"), tmp_path / "out")
    assert same_weights(pair.folder, exported)


def test_a_checkpoint_goes_there_and_back_to_the_byte(pairs: Any, tmp_path: Path) -> None:
    pair = pairs(0)
    checkpoint = import_ckpt(None, pair.folder, tmp_path / "ckpt")
    exported = export_ckpt(checkpoint, tmp_path / "out")
    assert same_weights(pair.folder, exported)  # the vision layers behind the features, too
    assert (exported / "tokenizer_config.json").read_text() == '{"image_token": "<image>"}'
    with pytest.raises(ConfigError, match="is there already"):
        export_ckpt(checkpoint, tmp_path / "out")
    export_ckpt(checkpoint, tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt", "out"]


def test_a_plain_script_imports(pairs: Any, tmp_path: Path) -> None:
    """One without `if __name__ == "__main__":`, which spawned processes would run again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from neva_prep.trainer import import_ckpt\n"
        f"import_ckpt(None, {str(pairs(0).folder)!r}, {str(tmp_path / 'ckpt')!r})\n"
    )
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=os.environ | path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ckpt" / "context" / "model.json").is_file()


def test_a_model_is_not_imported_as_another(pairs: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hidden_size=4096 and there 64"):
        import_ckpt(LlavaModel(), pairs(0).folder, tmp_path / "ckpt")
    assert not list(tmp_path.iterdir())


def test_a_source_in_half_precision_stays_as_small(pairs: Any, tmp_path: Path) -> None:
    pairs(1).theirs.to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    pairs(1).theirs.to(torch.float32)
    checkpoint = import_ckpt(None, tmp_path / "hf", tmp_path / "ckpt")
    exported = export_ckpt(checkpoint, tmp_path / "out")
    weights = load_file(exported / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    assert json.loads((exported / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_source_that_does_not_say_its_precision_is_asked(
    pairs: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    pairs(1).theirs.to(dtype).save_pretrained(tmp_path / "hf")
    pairs(1).theirs.to(torch.float32)
    path = tmp_path / "hf" / "config.json"
    settings = json.loads(path.read_text())
    for part in (settings, settings["text_config"], settings["vision_config"]):
        part.pop("dtype", None)
    path.write_text(json.dumps(settings))
    # One buffer in float32 makes no model of float32.
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    save_file(weights | {"rotary.inv_freq": torch.ones(2)}, tmp_path / "hf/model.safetensors")
    checkpoint = import_ckpt(None, tmp_path / "hf", tmp_path / "ckpt")
    exported = load_file(export_ckpt(checkpoint, tmp_path / "out") / "model.safetensors")
    exported.pop("rotary.inv_freq")
    assert {weight.dtype for weight in exported.values()} == {dtype}


@torch.no_grad()
@pytest.mark.parametrize("kind", VISIONS)
def test_a_vision_encoder_by_itself(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = AutoModel.from_config(VISIONS[kind]()).eval()
    theirs.save_pretrained(tmp_path / "hf")
    shape = read_vision(tmp_path / "hf")
    converted = import_ckpt(VisionModel(shape), tmp_path / "hf", tmp_path / "converted")
    back, report = AutoModel.from_pretrained(converted, output_loading_info=True)
    assert not any(report.values())
    ours = VisionModel(shape).build()
    load_vision(ours, shape, WeightFolder(converted))
    pixels = torch.randn(2, 3, 28, 28)
    expected = theirs(pixels, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(ours(pixels), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        back(pixels, output_hidden_states=True).hidden_states[-1], expected, atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_internvit_is_read_under_its_authors_names(tmp_path: Path) -> None:
    theirs = AutoModel.from_config(VISIONS["internvl"]()).eval()
    for weight in theirs.parameters():
        weight.normal_(0, 0.1)
    save_file(old_names(theirs.state_dict()), tmp_path / "model.safetensors")
    settings = VISION | {
        "model_type": "intern_vit_6b",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qk_normalization": False,
        "qkv_bias": True,
        "norm_type": "layer_norm",
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    shape = read_vision(tmp_path)
    ours = InternViTModel(shape).build()
    load_vision(ours, shape, WeightFolder(tmp_path))
    pixels = torch.randn(1, 3, 28, 28)
    expected = theirs(pixels, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(ours(pixels), expected, atol=1e-5, rtol=1e-5)


def old_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """InternViT's weights as its authors' code has them."""
    renamed = {
        "embeddings.class_embedding": weights["embeddings.cls_token"],
        "embeddings.position_embedding": weights["embeddings.position_embeddings"],
    }
    for kind in ("weight", "bias"):
        patch = weights[f"embeddings.patch_embeddings.projection.{kind}"]
        renamed[f"embeddings.patch_embedding.{kind}"] = patch
    for number in range(VISION["num_hidden_layers"]):
        old, new = f"encoder.layers.{number}.", f"encoder.layer.{number}."
        renamed |= {old + "ls1": weights[new + "lambda_1"], old + "ls2": weights[new + "lambda_2"]}
        for kind in ("weight", "bias"):
            parts = [weights[f"{new}attention.{name}_proj.{kind}"] for name in "qkv"]
            renamed[f"{old}attn.qkv.{kind}"] = torch.cat(parts)
            for old_name, new_name in {
                "attn.proj": "attention.projection_layer",
                "norm1": "layernorm_before",
                "norm2": "layernorm_after",
                "mlp.fc1": "mlp.fc1",
                "mlp.fc2": "mlp.fc2",
            }.items():
                renamed[f"{old}{old_name}.{kind}"] = weights[f"{new}{new_name}.{kind}"]
    return renamed


def test_parts_are_filled_from_where_the_config_says(pairs: Any) -> None:
    pair = pairs(0)
    model = NevaModel(
        replace(
            pair.config,
            language_model_from_pretrained=str(pair.folder),
            vision_model_from_pretrained=str(pair.folder),
        )
    ).build()
    assert load_pretrained(model) == ["language_model", "vision_model"]
    filled = dict(pair.ours.named_parameters())
    for name, weight in model.named_parameters():
        same = torch.equal(weight, filled[name])
        assert same != name.startswith("vision_projection"), name


@pytest.mark.parametrize(
    ("part", "setting"),
    [
        ("language", {"rotary_base": 5e5}),
        ("language", {"layernorm_epsilon": 1e-3}),
        ("vision", {"layernorm_epsilon": 1e-3}),
        ("vision", {"activation": "gelu"}),
    ],
)
def test_a_part_is_not_filled_from_a_model_that_computes_otherwise(
    pairs: Any, part: str, setting: dict[str, Any]
) -> None:
    """Its weights have the same shapes, and would load."""
    pair = pairs(0)
    name = f"{part}_transformer_config"
    changes = {
        name: replace(getattr(pair.config, name), **setting),
        f"{part}_model_from_pretrained": str(pair.folder),
    }
    model = NevaModel(replace(pair.config, **changes)).build()
    with pytest.raises(ConfigError, match=f"another model than .*{next(iter(setting))}="):
        load_pretrained(model)


@pytest.mark.parametrize("size", [None, 16])
def test_heads_of_the_usual_size_may_be_written_out_or_not(
    pairs: Any, tmp_path: Path, size: int | None
) -> None:
    """NeMo's `Llava15Config7B` leaves it out, and transformers writes it into every config."""
    pair = pairs(0)
    language = pair.config.language_transformer_config
    assert language.head_size == language.hidden_size // language.num_attention_heads
    named = replace(language, kv_channels=size and language.head_size)
    config = replace(pair.config, language_transformer_config=named)
    import_ckpt(NevaModel(config), pair.folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["models/tower", "./models/tower", "~/models/tower"])
def test_a_towers_weights_come_from_where_its_shapes_do(
    pairs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pair = pairs(0)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tower").symlink_to(pair.folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    tower = HFCLIPVisionConfig(pretrained_model_name_or_path=name)
    model = NevaModel(replace(pair.config, vision_transformer_config=tower)).build()
    assert load_pretrained(model) == ["vision_model"]
    weight = model.get_parameter("vision_model.tower.pre_layrnorm.weight")
    assert torch.equal(weight, pair.ours.get_parameter("vision_model.ln_pre.weight"))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("openai/clip", "hf://openai/clip"),
        ("hf://openai/clip", "hf://openai/clip"),
        ("/no/such/folder", "/no/such/folder"),
        ("../no/such", "../no/such"),
    ],
)
def test_a_tower_that_is_no_folder_here_is_the_hubs(name: str, source: str) -> None:
    assert tower_source(HFCLIPVisionConfig(pretrained_model_name_or_path=name)) == source


@pytest.mark.parametrize("more", [8, 2048])
def test_words_that_a_language_model_lacks_are_the_mean_of_the_others(
    pairs: Any, more: int
) -> None:
    pair = pairs(0)
    language = pair.config.language_transformer_config
    larger = replace(language, vocab_size=language.vocab_size + more)
    model = NevaModel(
        replace(
            pair.config,
            language_transformer_config=larger,
            language_model_from_pretrained=str(pair.folder),
        )
    ).build()
    if more > 1024:
        with pytest.raises(ConfigError, match="the model's config is another one's"):
            load_pretrained(model)
        return
    load_pretrained(model)
    filled = dict(pair.ours.named_parameters())
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        there = filled[f"language_model.{name}"]
        here = model.get_parameter(f"language_model.{name}")
        assert torch.equal(here[:-more], there)
        assert torch.allclose(here[-more:], there.mean(0).expand(more, -1), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"vision_feature_layer": [-2, -1]}, "several layers"),
        ({"text_config": {"model_type": "gemma"}}, "'gemma'"),
        ({"text_config": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}}, "'yarn'"),
        ({"text_config": {"attention_bias": True}}, "attention_bias"),
        ({"vision_config": {"model_type": "swin"}}, "'swin'"),
    ],
)
def test_what_the_model_cannot_be_is_refused(
    pairs: Any, change: dict[str, Any], message: str
) -> None:
    settings = read_config(pairs(0).folder)
    for name, value in change.items():
        settings[name] = settings[name] | value if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=message):
        neva_from_hf(settings, "here")


def test_a_first_patch_is_not_dropped_as_a_class_token(pairs: Any) -> None:
    settings = read_config(pairs(3).folder) | {"vision_feature_select_strategy": "default"}
    with pytest.raises(ConfigError, match=r"siglip.*'default'.*first patch"):
        neva_from_hf(settings, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop_vision_class_token": False}, "drop_vision_class_token=False and there True"),
        ({"vision_feature_layer": -1}, "vision_feature_layer=-1 and there -2"),
        (
            {"vision_projection_config": MultimodalProjectorConfig(add_bias_linear=False)},
            "add_bias_linear=False and there True",
        ),
    ],
)
def test_a_model_is_not_imported_with_other_features(
    pairs: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    model = NevaModel(replace(pairs(0).config, **change))
    with pytest.raises(ConfigError, match=message):
        import_ckpt(model, pairs(0).folder, tmp_path / "ckpt")


def test_features_may_be_named_in_another_way(pairs: Any, tmp_path: Path) -> None:
    same = replace(pairs(0).config, vision_feature_layer=2)
    import_ckpt(NevaModel(same), pairs(0).folder, tmp_path / "ckpt")


@pytest.mark.parametrize(
    ("dim", "parts", "held"),
    [
        (0, 1, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (0, 2, [[0, 1, 4, 5], [2, 3, 6, 7]]),  # a gate beside what it gates
        (1, 1, [[0, 2, 4, 6], [1, 3, 5, 7]]),
        (None, 1, [list(range(8))] * 2),
    ],
)
def test_a_tensor_rank_takes_its_piece(
    dim: int | None, parts: int, held: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron.core import parallel_state

    weight: Any = torch.nn.Parameter(torch.empty(0))
    weight.tensor_model_parallel, weight.partition_dim = dim is not None, dim
    monkeypatch.setattr(parallel_state, "get_tensor_model_parallel_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(parallel_state, "get_tensor_model_parallel_rank", lambda r=rank: r)
        whole = torch.arange(8).view((4, 2) if dim == 1 else (8, 1))
        assert own_piece(whole, weight, parts).flatten().tolist() == held[rank]


def test_a_folder_without_all_weights_is_refused(pairs: Any, tmp_path: Path) -> None:
    pair = pairs(0)
    weights = load_file(pair.folder / "model.safetensors")
    weights.pop("language_model.model.norm.weight")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"has no weight 'language_model.norm.weight'"):
        load_hf_weights(pair.ours, WeightFolder(tmp_path))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pickles"):
        WeightFolder(tmp_path)


def test_a_model_of_the_hub_needs_a_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("NEVA_PREP_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"cannot be downloaded.*without a network"):
        import_ckpt(LlavaModel(), "hf://llava-hf/llava-1.5-7b-hf")
    with pytest.raises(ConfigError, match="for a model of the hub write hf://"):
        import_ckpt(LlavaModel(), "llava-hf/llava-1.5-7b-hf")
