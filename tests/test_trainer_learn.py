"""It learns: a model trained on our stream answers questions about pictures it has never seen."""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fit_help import leave_ranks

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.lesson import Lesson, ask, draw_lesson, save_untrained, score
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.loaders import (
    EnergonMultiModalDataModule,
    ImageConfig,
    MultiModalSampleConfig,
    MultiModalTaskEncoder,
)
from neva_prep.trainer import fit, import_ckpt, recipes
from neva_prep.trainer.lora import add_lora
from neva_prep.trainer.models import NevaModel
from neva_prep.trainer.one_rank import one_rank
from neva_prep.trainer.saved import export_run, saved_lora
from neva_prep.trainer.weights import checkpoint_config, load_weights, weights_folder

pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(frozen=True)
class School:
    """A lesson as shards, and what was trained on it."""

    folder: Path
    lesson: Lesson

    def train(self, start: Path, *, steps: int, pack: int = 2432, peft: str = "none") -> Path:
        """Train for some steps, from a checkpoint to another."""
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(start / "context/hf")
        encoder = MultiModalTaskEncoder(
            processor.tokenizer,
            ImageConfig(size=48, fit="squash", mode="fast", output="uint8"),
            MultiModalSampleConfig(conversation_template_config=None),
            packed_sequence=True,
            packed_sequence_size=pack,
            seq_length=256,
            num_image_embeddings_per_tile=36,
        )
        recipe = recipes.tiny.finetune_recipe(
            dir=str(self.folder), name="run", peft_scheme=peft, restore=str(start)
        )
        recipe.data = EnergonMultiModalDataModule(
            self.folder / "shards", task_encoder=encoder, num_workers=1, packing_buffer_size=256
        )
        recipe.trainer.max_steps = steps
        recipe.trainer.val_check_interval = 0
        recipe.lr_scheduler.warmup_steps = min(100, steps // 8)
        leave_ranks()
        torch.set_num_threads(1)
        return fit(recipe).checkpoint

    def answers(self, checkpoint: Path, *, shuffled: bool = False) -> float:
        """Share of right answers that Hugging Face's model gives; or to others' pictures."""
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        hf = export_run(checkpoint, self.folder / "hf", overwrite=True)
        model = LlavaForConditionalGeneration.from_pretrained(hf).eval()
        pictures = [one.picture for one in self.lesson.exam]
        if shuffled:
            random.Random(0).shuffle(pictures)
        found = ask(model, AutoProcessor.from_pretrained(hf), self.lesson.exam, pictures)
        return score(self.lesson.exam, found)


def open_school(folder: Path, **changes: Any) -> School:
    folder.mkdir()
    lesson = draw_lesson(folder, **changes)
    options = ConvertOptions(split={"train": 0.97, "val": 0.03}, shard_size_bytes=2_000_000)
    convert(lesson.source, lesson.images, folder / "shards", options)
    return School(folder, lesson)


def untrained(folder: Path) -> Path:
    leave_ranks()
    return import_ckpt(None, save_untrained(folder / "untrained"), folder / "start")


def guessing(lesson: Lesson) -> float:
    """What one reaches who knows of each question only its likeliest answer."""
    answers: dict[str, list[str]] = {}
    for one in lesson.exam:
        answers.setdefault(one.question.topic, []).append(one.question.answer)
    right = sum(max(map(given.count, given)) for given in answers.values())
    return right / len(lesson.exam)


def test_a_model_learns_colors_in_seconds(tmp_path: Path) -> None:
    school = open_school(tmp_path / "school", pictures=500, held_out=80, topics=["color"])
    trained = school.train(untrained(tmp_path), steps=200, pack=1024)
    assert school.answers(trained) >= 0.9
    assert school.answers(trained, shuffled=True) <= guessing(school.lesson) + 0.1


@pytest.mark.long
def test_a_model_learns_colors_shapes_numbers_and_places_and_then_something_new(
    tmp_path: Path,
) -> None:
    school = open_school(tmp_path / "school", pictures=5000, held_out=150)
    start = untrained(tmp_path)
    began = time.monotonic()
    trained = school.train(start, steps=2000)
    seconds = time.monotonic() - began
    right, guessed = school.answers(trained), school.answers(trained, shuffled=True)
    print(f"trained in {seconds:.0f} s; right {right:.1%}, with other pictures {guessed:.1%}")
    assert right >= 0.95
    assert guessed <= guessing(school.lesson) + 0.1

    other = open_school(tmp_path / "other", pictures=1500, held_out=100, topics=["presence"])
    before = other.answers(trained)
    adapted = other.train(trained, steps=700, peft="lora")
    after = other.answers(adapted)
    print(f"a question of another kind: right {before:.1%} before, {after:.1%} after")
    assert before <= 0.1
    assert after >= 0.9
    assert frozen_weights_are_the_same(trained, adapted)


def frozen_weights_are_the_same(trained: Path, adapted: Path) -> bool:
    """To the bit, over all weights that are no adapter's."""
    leave_ranks()
    lora = saved_lora(adapted)
    assert lora is not None
    with one_rank():
        plain, with_adapters = (NevaModel(checkpoint_config(trained)).build() for _ in range(2))
        load_weights([plain], weights_folder(trained))
        add_lora([with_adapters], lora)
        load_weights([with_adapters], weights_folder(adapted))
        ours = dict(with_adapters.named_parameters())
        assert any(bool(w.any()) for name, w in ours.items() if name.endswith("lora_b"))
        return all(torch.equal(weight, ours[name]) for name, weight in plain.named_parameters())
