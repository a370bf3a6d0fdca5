"""The loop: what a run writes, says and refuses, on the data modules of NeMo's page."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fit_help import job, leave_ranks, losses, recipe_of, rows, run_here
from loader_help import tokenizer

from neva_prep.cli import root
from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.lesson import draw_lesson, save_processor
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.trace import keys_of_step, trace_keys
from neva_prep.errors import ConfigError, RecordError, TrainingError
from neva_prep.loaders import ImageConfig, MultiModalSampleConfig, MultiModalTaskEncoder
from neva_prep.trainer.editable import finished
from neva_prep.trainer.logs import RunLog, StepRow, cut_log, read_log
from neva_prep.trainer.watch import Watch, sample_lengths

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty simple pictures as JSON and as shards, and a processor for them."""
    folder = tmp_path_factory.mktemp("lesson")
    drawn = draw_lesson(folder, pictures=60, held_out=1)
    options = ConvertOptions(split={"train": 0.8, "val": 0.2}, shard_count=20)
    convert(drawn.source, drawn.images, folder / "shards", options)
    save_processor(folder / "processor")
    return folder


def packing(lesson: Path, **changes: Any) -> MultiModalTaskEncoder:
    from transformers import AutoProcessor

    settings: dict[str, Any] = {
        "packed_sequence": True,
        "packed_sequence_size": 400,
        "seq_length": 256,
        "num_image_embeddings_per_tile": 36,
    }
    return MultiModalTaskEncoder(
        AutoProcessor.from_pretrained(lesson / "processor").tokenizer,
        ImageConfig(size=48, fit="squash", output="uint8"),
        MultiModalSampleConfig(conversation_template_config=None),
        **settings | changes,
    )


def page_recipe(vlm: Any, tmp_path: Path, **changes: Any) -> Any:
    """The page's recipe, its sizes shrunk."""
    finetune = vlm.llava15_7b.finetune_recipe(
        name="llava15_7b_finetune",
        dir=str(tmp_path),
        num_nodes=1,
        num_gpus_per_node=1,
        peft_scheme="lora",
    )
    sizes = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96, "num_attention_heads": 4}
    config = finetune.model.config
    language = replace(finished(config.language_transformer_config), **sizes, num_query_groups=4)
    vision = replace(finished(config.vision_transformer_config), **sizes, img_h=28, img_w=28)
    config.language_transformer_config = language
    config.vision_transformer_config = vision
    finetune.resume.restore_config.path = None
    finetune.trainer.max_steps = 2
    finetune.trainer.val_check_interval = 2
    finetune.trainer.limit_val_batches = 1
    return finetune.replace(changes)


def test_the_pages_script_runs_with_mock_data(tmp_path: Path) -> None:
    from neva_prep import vlm

    finetune = page_recipe(vlm, tmp_path)
    finetune.data = vlm.MockDataModule(
        seq_length=32,
        micro_batch_size=2,
        global_batch_size=4,
        num_workers=0,
        num_image_embeddings_per_tile=4,
        image_size=(28, 28),
        num_val_samples=4,
    )
    leave_ranks()
    assert vlm.finetune(finetune).step == 2


def test_the_pages_script_runs_with_lazy_data(tmp_path: Path, lesson: Path) -> None:
    from neva_prep import vlm

    finetune = page_recipe(vlm, tmp_path)
    data_config = vlm.ImageDataConfig(
        image_folder=str(lesson / "images"),
        conv_template="v1",
        val_fraction=0.2,
    )
    custom_data = vlm.NevaLazyDataModule(
        paths=str(lesson / "lesson.json"),
        data_config=data_config,
        seq_length=512,
        global_batch_size=4,
        micro_batch_size=1,
        tokenizer=tokenizer(),
        image_processor=ImageConfig(size=28),
        num_workers=1,
        num_image_embeddings_per_tile=4,
    )
    finetune.data = custom_data
    finetune.peft.target_modules = ["*.language_model.*.linear_qkv"]
    finetune.peft.freeze_vision_model = True
    leave_ranks()
    assert vlm.finetune(finetune).step == 2
    row = read_log(tmp_path / "llava15_7b_finetune")[0]
    assert row["loss"] == pytest.approx(10.4, abs=0.4)  # Of 32,064 words, nothing known yet.
    assert len(row["__keys__"]) == 4


def test_the_pages_script_runs_with_energon_data(tmp_path: Path, lesson: Path) -> None:
    from neva_prep import vlm

    finetune = page_recipe(vlm, tmp_path)
    config = vlm.MultiModalSampleConfig(
        image_token=vlm.ImageToken(token_str="<image>", token_id=-200),
        ignore_place_holder=-100,
    )
    encoder = vlm.MultiModalTaskEncoder(
        tokenizer(), ImageConfig(size=28), config, num_image_embeddings_per_tile=4, seq_length=512
    )
    finetune.data = vlm.EnergonMultiModalDataModule(
        path=str(lesson / "shards"),
        micro_batch_size=1,
        global_batch_size=4,
        num_workers=0,
        task_encoder=encoder,
    )
    leave_ranks()
    assert vlm.finetune(finetune).step == 2
    log = tmp_path / "llava15_7b_finetune/train.jsonl"
    found = trace_keys(lesson / "shards", keys_of_step(log, 2, lesson / "shards").keys)
    assert read_log(log.parent)[0]["__origins__"] == str(lesson / "shards")
    assert len(found) == 4
    assert all(row["images"][0].endswith(".jpg") for row in found)


def test_packs_are_counted_as_the_model_sees_them(tmp_path: Path, lesson: Path) -> None:
    from neva_prep.loaders import EnergonMultiModalDataModule
    from neva_prep.trainer import fit

    recipe = recipe_of(job(tmp_path, "packed", trainer__val_check_interval=3))
    recipe.data = EnergonMultiModalDataModule(
        lesson / "shards",
        task_encoder=packing(lesson),
        global_batch_size=2,
        num_workers=0,
        packing_buffer_size=24,
    )
    leave_ranks()
    fit(recipe)
    for row in read_log(tmp_path / "packed"):
        assert row["fill"] == pytest.approx(row["tokens"] / 800)
        assert row["tokens"] == row["positions"]  # Packs end where their last sample does.
        assert row["trained_tokens"] < row["tokens"]
        assert len(row["__keys__"]) >= 6
    text = (tmp_path / "packed/train.jsonl").read_text()
    assert [json.loads(r)["val_step"] for r in text.splitlines() if "val_step" in r] == [3, 6]


def test_more_micro_batches_give_the_same_losses(tmp_path: Path) -> None:
    one = job(tmp_path, "one", data={"micro_batch_size": 8})
    four = job(tmp_path, "four", data={"micro_batch_size": 2})
    for given in (one, four):
        run_here(given)
    assert losses(four) == pytest.approx(losses(one), rel=1e-5)
    assert [row[3] for row in rows(four)] == [row[3] for row in rows(one)]


@pytest.mark.parametrize("how", ["full", "selective"])
def test_computing_activations_again_changes_nothing(tmp_path: Path, how: str) -> None:
    plain = job(tmp_path, "plain", trainer__max_steps=2)
    again = job(tmp_path, "again", trainer__max_steps=2, trainer__compute__recompute=how)
    for given in (plain, again):
        run_here(given)
    assert losses(again) == pytest.approx(losses(plain), rel=1e-6)


def test_a_run_with_an_offloaded_encoder_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    frozen: dict[str, Any] = {"model__config__freeze_vision_model": True}
    plain = job(tmp_path, "plain", trainer__max_steps=4, **frozen)
    frozen["trainer__compute__offload_vision"] = True
    run_here(plain)
    for steps in (2, 4):
        run_here(job(tmp_path, "offloaded", trainer__max_steps=steps, **frozen))
    assert losses(job(tmp_path, "offloaded")) == losses(plain)


def test_bfloat16_learns_as_float32_does(tmp_path: Path) -> None:
    exact = job(tmp_path, "fp32")
    half = job(tmp_path, "bf16", trainer__compute__precision="bf16")
    for given in (exact, half):
        run_here(given)
    assert losses(half) == pytest.approx(losses(exact), rel=0.02)
    assert losses(half)[-1] < losses(half)[0] - 0.1


def test_a_run_that_diverges_says_so_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    wild = job(tmp_path, "wild", optim__lr=1e30, optim__clip_grad=0.0)
    with pytest.raises(TrainingError, match=r"not finite[\s\S]*lower the learning rate"):
        run_here(wild)


def test_a_data_error_ends_the_run_with_its_own_message(tmp_path: Path) -> None:
    recipe = recipe_of(job(tmp_path, "bad"))

    def broken(split: str) -> Any:
        raise RecordError("source.json:7: is broken")

    recipe.data._open_split = broken
    leave_ranks()
    from neva_prep.trainer import fit

    with pytest.raises(RecordError, match=r"source\.json:7"):
        fit(recipe)


def test_a_log_is_cut_where_a_run_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "train.jsonl"
    lines = ['{"step": 1}', '{"step": 2}', '{"val_step": 2}', '{"step": 3}', '{"val_step": 3}']
    log.write_text("\n".join([*lines, '{"step": 4, "lo']))
    cut_log(log, 2)
    assert log.read_text().splitlines() == lines[:3]


def step_row(step: int = 1200) -> StepRow:
    return StepRow(
        step=step,
        loss=0.84312,
        lr=1.9e-4,
        grad_norm=0.51,
        tokens=9000,
        trained_tokens=400,
        positions=10_000,
        fill=0.9,
        seconds=0.5,
        data_wait=0.02,
        memory_bytes=6_100_000_000,
        mfu=0.38,
        keys=["000000042"],
        origins=["shards"],
    )


def test_a_line_has_what_people_look_for() -> None:
    row = step_row()
    assert row.line(5190) == (
        "step 1,200/5,190  loss 0.8431  lr 1.90e-04  grad 0.51  20,000 tokens/s  18,000 useful  "
        "MFU 38%  fill 90%  waited 2%  6.1 GB"
    )
    assert row.to_dict()["__keys__"] == ["000000042"]
    assert row.to_dict()["__origins__"] == "shards"
    assert replace(row, origins=["a", "b"]).to_dict()["__origins__"] == ["a", "b"]


def test_a_loss_that_is_no_number_is_null_in_the_log(tmp_path: Path) -> None:
    log = RunLog(tmp_path, writes=True, from_step=0, max_steps=5, every=100, stream=io.StringIO())
    log.step(replace(step_row(), loss=float("nan"), mfu=float("inf")))
    log.validation(1, float("nan"), 0)
    log.close()
    step, validation = (tmp_path / "train.jsonl").read_text().splitlines()
    assert '"loss": null' in step and '"mfu": null' in step and '"val_loss": null' in validation


def test_tensorboard_has_each_step_once_also_after_a_resume(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, last in ((0, 4), (2, 5)):
        log = RunLog(
            tmp_path, writes=True, from_step=first, max_steps=5, every=100, stream=io.StringIO()
        )
        for step in range(first + 1, last + 1):
            log.step(step_row(step))
        log.validation(last, 0.5, 10)
        log.close()
    read = events.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [point.step for point in read.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert read.Scalars("train/tokens_per_second")[0].value == pytest.approx(18_000)
    assert [point.step for point in read.Scalars("val/loss")] == [5]


def test_lengths_of_samples_count_image_embeddings() -> None:
    from trainer_help import packed_batch, padded_batch, tiny_samples

    from neva_prep.trainer.watch import Seen

    padded, packed = sample_lengths(padded_batch()), sample_lengths(packed_batch())
    # 16 embeddings a tile, in place of a slot; labels are shifted, so one token less.
    expected = [
        len(s.tokens) - 1 - len(s.num_tiles) + 16 * int(s.num_tiles.sum()) for s in tiny_samples()
    ][:4]
    assert padded.tolist() == packed.tolist() == expected
    watch = Watch(iter([packed_batch()]))
    next(watch)
    seen = watch.take()
    assert (seen.positions, seen.squares) == (sum(expected), sum(n * n for n in expected))
    assert (seen.rows, seen.tiles, len(seen.keys)) == (1, 5, 4)
    assert watch.take() == Seen()


def test_the_command_trains_and_exports(tmp_path: Path, lesson: Path) -> None:
    leave_ranks()
    command = [
        *("train", "--recipe", "tiny", "--from", "none", "--data", str(lesson / "shards")),
        *("--processor", str(lesson / "processor"), "--template", "tokenizer", "--pack"),
        *("--seq-length", "400", "--global-batch-size", "1", "--workers", "0"),
        *("--out", str(tmp_path), "--name", "run", "--set", "trainer.max_steps=2"),
    ]
    ended = CliRunner().invoke(root, command, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    assert ended.stdout == f"{tmp_path}/run/checkpoints/step-00000002\n"
    exported = CliRunner().invoke(
        root, ["export", str(tmp_path / "run"), "--out", str(tmp_path / "hf")]
    )
    assert exported.exit_code == 0, exported.output
    assert {path.name for path in (tmp_path / "hf").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
    }
    with pytest.raises(ConfigError, match="no adapters"):
        CliRunner().invoke(
            root,
            ["export", str(tmp_path / "run"), "--out", str(tmp_path / "peft"), "--adapter"],
            catch_exceptions=False,
            standalone_mode=False,
        )


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        (["--set", "trainer.max_steps"], "write KEY=VALUE"),
        (["--set", "data.seed=3"], "data has options of its own"),
        (["--pack"], "--pack needs --data"),
        (["--global-batch-size", "64"], "--global-batch-size needs --data"),
        (["--data", "chat.json", "--global-batch-size", "0"], "0 is not in the range x>=1"),
        (["--data", "chat.json", "--micro-batch-size", "0"], "0 is not in the range x>=1"),
        (["--data", "chat.json", "--seq-length", "0"], "0 is not in the range x>=1"),
        (["--data", "chat.json", "--workers", "-1"], "-1 is not in the range x>=0"),
        (["--stage", "pretrain"], "has no such recipe"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: list[str], finding: str) -> None:
    ended = CliRunner().invoke(root, ["train", "--recipe", "tiny", *options])
    assert ended.exit_code == 2
    assert finding in ended.output


def test_a_recipe_is_printed_and_not_run(tmp_path: Path) -> None:
    ended = CliRunner().invoke(
        root, ["train", "--recipe", "tiny", "--out", str(tmp_path), "--dry-run"]
    )
    assert "max_steps=1500," in ended.stdout
    assert not list(tmp_path.iterdir())
