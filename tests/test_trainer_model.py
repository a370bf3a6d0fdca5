"""The trainer's configs, its rows, its attention and its model on one rank."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trainer_help import (
    TINY,
    TINY_LANGUAGE,
    TINY_VISION,
    one_rank,
    packed_batch,
    padded_batch,
    row_config,
    tiny_samples,
)

from neva_prep import trainer
from neva_prep.errors import ConfigError, PackError, RecordError
from neva_prep.loaders.batch import Batch
from neva_prep.loaders.encoded import EncodedSample
from neva_prep.trainer import (
    ComputeConfig,
    ExpandedBatch,
    HFCLIPVisionConfig,
    InternViT_300M_448px_Config,
    LanguageConfig,
    Llama2Config7B,
    Llama2Config13B,
    Llama3Config8B,
    Llava15Config7B,
    MistralConfig7B,
    MultimodalProjectorConfig,
    NevaConfig,
    NevaModel,
    Qwen25Config7B,
    Qwen25Config500M,
    RopeScaling,
    SigLIPViT400M_14_384_Config,
    VisionConfig,
    expand_batch,
    slice_for_context,
)
from neva_prep.trainer.zigzag import gathered_order, rank_pieces, rank_positions


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    one_rank()
    yield


@pytest.fixture(scope="module")
def model() -> Any:
    return NevaModel(TINY).build()


def expanded(batch: Batch, **settings: Any) -> ExpandedBatch:
    return expand_batch(batch, num_image_embeddings_per_tile=16, **settings)


def handmade(**changes: Any) -> Batch:
    """Two rows: an image of one tile and one of two, and a text."""
    batch: Any = {
        "tokens": torch.tensor([[1, -200, 7, -200, 8], [4, 5, 6, 0, 0]]),
        "labels": torch.tensor([[-100, 7, -100, 8, 2], [5, 6, 2, -100, -100]]),
        "loss_mask": torch.zeros(2, 5),
        "position_ids": torch.tensor([[0, 1, 3, 4, 8], [0, 1, 2, 3, 4]]),
        "attention_mask": torch.ones(2, 5, dtype=torch.bool),
        "media": torch.zeros(3, 3, 4, 4),
        "num_media_tiles": torch.tensor([1, 2]),
        "__keys__": ["a", "b"],
        "__origins__": ["", ""],
    }
    batch.update(changes)
    made: Batch = batch
    return made


def test_rows_are_expanded_as_by_hand() -> None:
    rows = expand_batch(handmade(), num_image_embeddings_per_tile=2)
    image, none = -200, -100
    assert rows.input_ids.tolist() == [
        [1, image, image, 7, image, image, image, image, 8],
        [4, 5, 6, 0, 0, 0, 0, 0, 0],
    ]
    assert rows.image_index.tolist() == [[-1, 0, 1, -1, 2, 3, 4, 5, -1], [-1] * 9]
    assert rows.labels.tolist() == [
        [none, none, 7, none, none, none, none, 8, 2],
        [5, 6, 2, none, none, none, none, none, none],
    ]
    assert rows.loss_mask.tolist() == (rows.labels >= 0).float().tolist()
    assert rows.position_ids.tolist() == [list(range(9))] * 2


def test_padded_rows_end_where_the_model_wants() -> None:
    assert expand_batch(
        handmade(), num_image_embeddings_per_tile=2, multiple_of=8
    ).input_ids.shape == (2, 16)
    assert (
        expand_batch(handmade(), num_image_embeddings_per_tile=2, length=12).position_ids.tolist()
        == [list(range(12))] * 2
    )
    with pytest.raises(PackError, match="takes 9 positions and the limit is 8"):
        expand_batch(handmade(), num_image_embeddings_per_tile=2, length=8)


def one_by_one(sample: EncodedSample) -> tuple[list[int], list[int]]:
    """A sample's positions and what each predicts, the slow way: expand, then shift."""
    tiles = iter(sample.num_tiles.tolist())
    ids, labels = [], []
    for token, label in zip(sample.tokens.tolist(), sample.labels.tolist(), strict=True):
        times = 16 * next(tiles) if token == -200 else 1
        ids += [token] * times
        labels += [label] * times
    return ids[:-1], labels[1:]


def test_rows_are_those_of_samples_expanded_one_by_one() -> None:
    rows = expanded(padded_batch(count=6))
    pack = expanded(packed_batch(count=6, alignment=4))
    assert pack.packed_seq_params is not None
    starts = pack.packed_seq_params.cu_seqlens_q_padded.tolist()
    for number, sample in enumerate(tiny_samples(count=6)):
        ids, labels = one_by_one(sample)
        start, size = starts[number], len(ids)
        assert rows.input_ids[number, :size].tolist() == ids
        assert rows.labels[number, :size].tolist() == labels
        assert pack.input_ids[0, start : start + size].tolist() == ids
        assert pack.labels[0, start : start + size].tolist() == labels
        assert pack.position_ids[0, start : starts[number + 1]].tolist() == list(
            range(starts[number + 1] - start)
        )
    images = pack.image_index[pack.image_index >= 0]
    assert images.tolist() == list(range(16 * len(pack.media)))


def test_a_batch_that_contradicts_itself_is_refused() -> None:
    for changes, message in (
        ({"num_media_tiles": torch.tensor([3])}, r"samples a, b: 2 image slots and 1 images"),
        ({"num_media_tiles": torch.tensor([1, 1])}, "counts 2 tiles and media has 3"),
    ):
        with pytest.raises(RecordError, match=message):
            expand_batch(handmade(**changes), num_image_embeddings_per_tile=2)
    with pytest.raises(ConfigError, match="the same num_image_embeddings_per_tile"):
        expand_batch(packed_batch(), num_image_embeddings_per_tile=9)
    with pytest.raises(PackError, match="a multiple of 1000"):
        expanded(packed_batch(), multiple_of=1000)


BOUNDS = [0, 8, 8, 20, 32]


@pytest.mark.parametrize("size", [1, 2])
def test_context_ranks_hold_every_position_once(size: int) -> None:
    held = [rank_positions(BOUNDS, size, rank) for rank in range(size)]
    assert sorted(torch.cat(held).tolist()) == list(range(32))
    assert {len(positions) for positions in held} == {32 // size}
    assert torch.cat(held)[gathered_order(BOUNDS, size)].tolist() == list(range(32))


def test_a_context_rank_sees_its_part_of_the_batch() -> None:
    pack = expanded(packed_batch(alignment=4))
    parts = [slice_for_context(pack, 2, rank) for rank in (0, 1)]
    assert pack.packed_seq_params is not None
    order = gathered_order(pack.packed_seq_params.cu_seqlens_q_padded.tolist(), 2)
    for name in ("input_ids", "labels", "image_index", "position_ids", "loss_mask"):
        joined = torch.cat([getattr(part, name) for part in parts], 1)[:, order]
        assert torch.equal(joined, getattr(pack, name))
    with pytest.raises(PackError, match="pad samples to a multiple of 4"):
        slice_for_context(expanded(packed_batch(alignment=1)), 2, 0)


def layer_attention(**changes: Any) -> Any:
    language = replace(TINY_LANGUAGE, num_layers=1, **changes)
    built = NevaModel(replace(TINY, language_transformer_config=language)).build()
    return built.language_model.decoder.layers[0].self_attention.core_attention


def dense_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """Attention over a row of packed samples, by one mask."""
    position = torch.arange(len(q))
    sample = torch.bucketize(position, torch.tensor(BOUNDS[1:]), right=True)
    distance = position[:, None] - position
    mask = (sample[:, None] == sample) & (distance >= 0)
    if window is not None:
        mask &= distance < window
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[2] ** -0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("size", [1, 2])
def test_attention_is_that_of_a_dense_mask(window: int | None, size: int) -> None:
    attention = layer_attention(window_size=window)
    q, k, v = torch.randn(32, 8, 8), torch.randn(32, 4, 8), torch.randn(32, 4, 8)
    expected = dense_attention(q, k, v, window)
    for rank in range(size):
        held = rank_positions(BOUNDS, size, rank)
        own = q[held].unsqueeze(1)
        outs = [
            attention._piece(
                own[piece.first_query : piece.end_query],
                k[piece.first_key : piece.end_key].unsqueeze(1),
                v[piece.first_key : piece.end_key].unsqueeze(1),
            )
            for piece in rank_pieces(BOUNDS, size, rank)
        ]
        torch.testing.assert_close(torch.cat(outs).squeeze(1), expected[held])


@torch.no_grad()
def test_no_sample_of_a_pack_sees_another(model: Any) -> None:
    pack = expanded(packed_batch())
    assert pack.packed_seq_params is not None
    start, end = pack.packed_seq_params.cu_seqlens_q_padded[1:3].tolist()
    before = model(**pack.model_inputs())
    words = pack.input_ids.clone()
    changed = torch.zeros_like(words, dtype=torch.bool)
    changed[:, start:end] = words[:, start:end] > 0
    inputs = pack.model_inputs() | {"input_ids": words.where(~changed, 99)}
    after = model(**inputs)
    others = torch.ones_like(changed)
    others[:, start:end] = False
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[~others], after[~others])


@torch.no_grad()
def test_the_first_patch_sees_the_last(model: Any) -> None:
    pixels = torch.randn(1, 3, 28, 28)
    other = pixels.clone()
    other[..., -7:, -7:] += 1
    assert (model.vision_model(pixels)[:, 1] != model.vision_model(other)[:, 1]).any()


def test_a_batch_of_text_gives_image_weights_no_gradient_but_zeros(model: Any) -> None:
    texts = [sample for sample in tiny_samples(count=8) if not len(sample.num_tiles)]
    from neva_prep.loaders.collate import collate_padded

    batch = expanded(collate_padded(texts, row_config()))
    assert len(batch.media) == 0
    model.zero_grad()
    (model(**batch.model_inputs()) * batch.loss_mask).sum().backward()
    for name, weight in model.named_parameters():
        is_image = name.startswith("vision")
        assert weight.grad is not None and (not weight.grad.any()) == is_image, name


def test_frozen_parts_have_no_gradient() -> None:
    frozen = replace(TINY, freeze_language_model=True, freeze_vision_model=True)
    built = NevaModel(frozen).build()
    batch = expanded(padded_batch())
    (built(**batch.model_inputs()) * batch.loss_mask).sum().backward()
    trained = {name.split(".")[0] for name, w in built.named_parameters() if w.grad is not None}
    assert trained == {"vision_projection"}


def test_activations_computed_again_give_the_same_gradients() -> None:
    gradients = []
    batch = expanded(packed_batch())
    for recompute in (None, "full", "selective"):
        one_rank()
        built = NevaModel(TINY).build(compute=ComputeConfig(recompute=recompute))
        (built(**batch.model_inputs()) * batch.loss_mask).sum().backward()
        gradients.append([w.grad for w in built.parameters()])
    for others in gradients[1:]:
        assert all(map(torch.equal, gradients[0], others))


def test_bf16_is_near_float32() -> None:
    batch = expanded(packed_batch())
    losses = []
    for precision in ("fp32", "bf16"):
        one_rank()
        built = NevaModel(TINY).build(compute=ComputeConfig(precision=precision))
        losses.append(built(**batch.model_inputs())[batch.loss_mask > 0].float())
    torch.testing.assert_close(*losses, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", ["linear", "identity", "mlp2x_gelu"])
@pytest.mark.parametrize("factor", [1, 2])
def test_projectors(kind: Any, factor: int) -> None:
    projector = MultimodalProjectorConfig(projector_type=kind, pixel_shuffle=factor)
    vision = replace(TINY_VISION, hidden_size=64 // factor**2)
    config = replace(TINY, vision_projection_config=projector, vision_transformer_config=vision)
    built = NevaModel(config).build()
    per_tile = 16 // factor**2
    assert config.num_image_embeddings_per_tile == per_tile
    assert built.embed_images(torch.randn(3, 3, 28, 28)).shape == (3 * per_tile, 64)


def test_pixel_shuffle_is_internvls() -> None:
    from transformers.models.internvl.modeling_internvl import InternVLModel

    from neva_prep.trainer.projector import pixel_shuffle

    features = torch.randn(2, 6, 6, 5)
    # Its own method, which uses nothing of its model.
    expected = InternVLModel.pixel_shuffle(None, features, 0.5)
    ours = pixel_shuffle(features.flatten(1, 2), (6, 6), 2)
    assert torch.equal(ours, expected.flatten(1, 2))


def test_norms_are_torchs_and_marked_for_sequence_parallelism() -> None:
    from neva_prep.trainer.megatron_config import language_transformer
    from neva_prep.trainer.parallel_config import ParallelConfig
    from neva_prep.trainer.spec import Norm

    parallel = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
    nemotron: dict[str, Any] = {"normalization": "LayerNorm", "layernorm_zero_centered_gamma": True}
    for language in (TINY_LANGUAGE, replace(TINY_LANGUAGE, **nemotron)):
        config = language_transformer(language, parallel, ComputeConfig())
        norm = Norm(config, 64)
        assert all(weight.sequence_parallel for weight in norm.parameters())
        plain = torch.nn.RMSNorm if config.normalization == "RMSNorm" else torch.nn.LayerNorm
        x = torch.randn(5, 64)
        torch.testing.assert_close(norm(x), plain(64, eps=1e-5)(x))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (Llama2Config7B, 6_738_415_616),
        (Llama2Config13B, 13_015_864_320),
        (Llama3Config8B, 8_030_261_248),
        (MistralConfig7B, 7_241_732_096),
        (Qwen25Config7B, 7_615_616_512),
        (Qwen25Config500M, 494_032_768),
    ],
)
def test_families_have_the_published_number_of_weights(
    make: Callable[[], LanguageConfig], count: int
) -> None:
    config = replace(TINY, language_transformer_config=make())
    with torch.device("meta"):
        built = NevaModel(config).build(compute=ComputeConfig(initialize=False))
    assert sum(w.numel() for w in built.language_model.parameters()) == count


def test_llava_is_the_shape_of_its_paper() -> None:
    config = Llava15Config7B()
    assert config.num_image_embeddings_per_tile == 576
    assert config.num_vision_layers == 23
    assert config.image_size == (336, 336)
    siglip = replace(config, vision_transformer_config=SigLIPViT400M_14_384_Config())
    assert siglip.num_image_embeddings_per_tile == 729
    internvit = replace(
        config,
        vision_transformer_config=InternViT_300M_448px_Config(),
        vision_projection_config=MultimodalProjectorConfig(pixel_shuffle=2),
    )
    assert internvit.num_image_embeddings_per_tile == 256


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LanguageConfig(num_query_groups=5), "share keys evenly"),
        (lambda: LanguageConfig(hidden_size=100), "set kv_channels"),
        (lambda: LanguageConfig(rotary_percent=0.3, hidden_size=320), "odd number"),
        (lambda: LanguageConfig(num_layers=0), "must be 1 or more"),
        (lambda: LanguageConfig(window_size=0), "window_size=0"),
        (lambda: RopeScaling(low_freq_factor=4.0), "must be below"),
        (lambda: VisionConfig(hidden_size=100), "16 heads"),
        (lambda: VisionConfig(img_h=8), "holds no patch"),
        (lambda: VisionConfig(family="siglip"), "add_class_token=False"),
        (lambda: MultimodalProjectorConfig(projector_type="mlp3x"), "'mlp3x'"),  # type: ignore[arg-type]
        (lambda: MultimodalProjectorConfig(pixel_shuffle=0), "pixel_shuffle=0"),
        (lambda: replace(TINY, vision_feature_layer=-4), "has 3 layers"),
        (lambda: replace(TINY, vision_feature_layer=0), "has 3 layers"),
        (lambda: projected(pixel_shuffle=3), "patches would be lost"),
        (lambda: projected(pixel_shuffle=2, keep=True), "no patch"),
        (lambda: projected(projector_type="identity"), "use 'linear'"),
        (lambda: HFCLIPVisionConfig(shape=InternViT_300M_448px_Config()), "CLIP and SigLIP"),
        (
            lambda: NevaConfig(vision_transformer_config=HFCLIPVisionConfig()).image_size,
            "not read yet",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def projected(keep: bool = False, **settings: Any) -> NevaConfig:
    projector = MultimodalProjectorConfig(**settings)
    return replace(TINY, vision_projection_config=projector, drop_vision_class_token=not keep)


def run(code: str, *flags: str) -> str:
    command = [sys.executable, *flags, "-c", code]
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | path)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_every_public_name_is_there_and_hidden_by_no_module() -> None:
    modules = {path.stem for path in Path(trainer.__file__).parent.iterdir()}
    assert not modules & set(trainer.__all__)
    for name in trainer.__all__:
        getattr(trainer, name)


def test_data_and_configs_never_import_megatron_core() -> None:
    run(
        "import sys, neva_prep, neva_prep.cli, neva_prep.loaders, neva_prep.dataprep\n"
        "from neva_prep.trainer import Llava15Config7B, LlavaModel, import_ckpt\n"
        "from neva_prep.loaders import EnergonMultiModalDataModule, MockDataModule\n"
        "LlavaModel(Llava15Config7B())\n"
        "assert not any(name.startswith('megatron.core') for name in sys.modules)\n"
    )


def test_megatron_is_imported_and_trains_without_its_warnings() -> None:
    said = run(
        "import neva_prep.trainer.model\n"
        "from trainer_help import TINY, one_rank\n"
        "from neva_prep.trainer import NevaModel\n"
        "one_rank()\n"
        "NevaModel(TINY).build()\n"
        "import tempfile\n"
        "from pathlib import Path\n"
        "from fit_help import job, run_here\n"
        "sharded = {'optim__use_distributed_optimizer': True, 'trainer__max_steps': 1}\n"
        "run_here(job(Path(tempfile.mkdtemp()), 'x', **sharded))\n",
        "-W",
        "default",
    )
    said = "\n".join(line for line in said.splitlines() if "DeprecationWarning" not in line)
    for word in ("Apex", "Transformer Engine", "UserWarning", "DEPRECATED", "Rewrapping", "Future"):
        assert word not in said, said
