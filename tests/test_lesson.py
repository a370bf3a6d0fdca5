"""The lesson of the small model: scenes, words, an exam that gives nothing away, and the demo."""

import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from test_demo import look_up, see

from neva_prep.dataprep import tour_train
from neva_prep.dataprep.lesson import (
    TOPICS,
    Lesson,
    draw_lesson,
    save_processor,
    save_untrained,
    score,
)
from neva_prep.dataprep.scene import COLORS, KINDS, draw_scene, make_simple_scene, questions
from neva_prep.dataprep.tour import run_demo
from neva_prep.templates import encode_conversation


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    topics = (*TOPICS, "presence")
    return draw_lesson(tmp_path_factory.mktemp("lesson"), pictures=40, held_out=20, topics=topics)


def test_simple_scenes_have_one_color_and_one_kind_and_all_occur() -> None:
    scenes = [make_simple_scene(0, index) for index in range(300)]
    looks = [{(shape.color, shape.kind) for shape in scene.shapes} for scene in scenes]
    assert all(len(look) == 1 for look in looks)
    assert {color for look in looks for color, _ in look} == set(COLORS)
    assert {kind for look in looks for _, kind in look} == set(KINDS)
    numbers = Counter(len(scene.shapes) for scene in scenes)
    assert set(numbers) == {1, 2, 3, 4}
    assert 0.4 < numbers[1] / len(scenes) < 0.6


@pytest.mark.parametrize("index", range(12))
def test_answers_about_simple_scenes_are_what_the_pixels_show(index: int) -> None:
    scene = make_simple_scene(3, index)
    shapes = see(draw_scene(scene))
    for question in questions(scene):
        if question.topic in (*TOPICS, "presence"):
            assert question.answer == look_up(question.text, shapes), question


def test_no_picture_of_the_exam_is_trained_on(lesson: Lesson) -> None:
    trained = {hashlib.sha256(p.read_bytes()).digest() for p in lesson.images.iterdir()}
    asked = {hashlib.sha256(one.picture.read_bytes()).digest() for one in lesson.exam}
    assert len(trained) == 40
    assert len(asked) == 20
    assert not trained & asked


def test_the_same_seed_draws_the_same_lesson(lesson: Lesson, tmp_path: Path) -> None:
    again = draw_lesson(tmp_path, pictures=40, held_out=20, topics=(*TOPICS, "presence"))
    assert again.source.read_bytes() == lesson.source.read_bytes()
    other = draw_lesson(tmp_path, pictures=40, held_out=1, seed=1)
    assert other.source.read_bytes() != lesson.source.read_bytes()


def test_only_the_topics_that_are_asked_for_come(tmp_path: Path) -> None:
    drawn = draw_lesson(tmp_path, pictures=10, held_out=5, topics=["position"])
    records = json.loads(drawn.source.read_text())
    assert len(records) == 10  # Scenes without such a question are passed over.
    asked = [turn["value"] for r in records for turn in r["conversations"] if turn["from"] != "gpt"]
    assert all(text.removeprefix("<image> ").startswith("Where is the") for text in asked)
    assert {one.question.topic for one in drawn.exam} == {"position"}


def test_the_tokenizer_knows_every_word_and_answers_are_trained(
    lesson: Lesson, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    image_token = save_processor(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.convert_tokens_to_ids("<image>") == image_token
    for record in json.loads(lesson.source.read_text()):
        sample = encode_conversation(record["conversations"], tokenizer=tokenizer)
        assert tokenizer.unk_token_id not in sample.tokens
        trained = tokenizer.decode(sample.labels[sample.labels >= 0])
        answers = [turn["value"] for turn in record["conversations"] if turn["from"] == "gpt"]
        assert trained.split("</s>")[:-1] == [f"{' ' * (n > 0)}{a} " for n, a in enumerate(answers)]


def test_an_untrained_model_knows_nothing(lesson: Lesson, tmp_path: Path) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from neva_prep.dataprep.lesson import ask

    save_untrained(tmp_path)
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    answers = ask(model, AutoProcessor.from_pretrained(tmp_path), lesson.exam[:20])
    assert score(lesson.exam[:20], answers) <= 0.1
    assert score(lesson.exam[:20], [one.question.answer for one in lesson.exam[:20]]) == 1.0


def test_the_demo_says_when_it_cannot_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tour_train, "missing_for_training", lambda: "megatron.core")
    said = io.StringIO()
    run_demo(
        tmp_path,
        Console(file=said, width=100),
        pictures=12,
        seed=0,
        overwrite=False,
        steps=400,
    )
    assert "skipped: megatron.core is not installed" in said.getvalue()
    assert "pip install 'neva-prep[train]'" in said.getvalue()
