"""What the demo's small model learns: simple scenes as a LLaVA source, and a tokenizer of words.

draw_lesson ──▶ lesson.json + images ──convert──▶ shards        (training)
           └─▶ exam: held-out pictures, questions, answers      (asked of the trained model)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

from ..loaders.format import IMAGE_PLACEHOLDER
from .scene import COLORS, KINDS, PLACES, Question, Scene, draw_scene, make_simple_scene, questions

TOPICS = ("color", "shape", "count", "position")
IMAGE_SIZE, PATCH_SIZE = 48, 8
"""What the model sees: pictures shrunk to so many pixels, cut into patches of so many."""
_MOST_QUESTIONS = 6
_VOCABULARY = 72
"""Words of the model; some more than the tokenizer has."""
_HELD_OUT_SEED = 1_000_003
_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{{ message['content'] + ' ' }}
{%- else -%}{% generation %}{{ message['content'] + ' </s> ' }}{% endgeneration %}{%- endif -%}
{%- endfor -%}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """A question about a picture that no training sample shows."""

    picture: Path
    question: Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What `draw_lesson` has drawn."""

    source: Path
    """The LLaVA JSON array."""
    images: Path
    """The image folder."""
    exam: tuple[Exam, ...]


def draw_lesson(
    folder: Path,
    *,
    pictures: int,
    held_out: int,
    seed: int = 0,
    topics: Sequence[str] = TOPICS,
) -> Lesson:
    """Simple scenes with questions, and held-out ones to ask about.

    Args:
        folder: gets `lesson.json`, `images/` and `exam/`; files of an earlier call are replaced.
        pictures: to train on.
        held_out: not to train on.
        seed: decides everything.
        topics: of the questions.
    """
    images, exam_folder = folder / "images", folder / "exam"
    for made in (images, exam_folder):
        made.mkdir(parents=True, exist_ok=True)
    records = []
    for index, scene in islice(_scenes(seed, topics), pictures):
        name = f"{index:06d}.jpg"
        draw_scene(scene).save(images / name, quality=92)
        asked = _choose(questions(scene), topics, Random(f"lesson/{seed}/{index}"))
        records.append(_record(f"lesson-{index:06d}", name, asked))
    exam = []
    for index, scene in islice(_scenes(seed + _HELD_OUT_SEED, topics), held_out):
        path = exam_folder / f"{index:06d}.jpg"
        draw_scene(scene).save(path, quality=92)
        exam += [Exam(picture=path, question=q) for q in questions(scene) if q.topic in topics]
    source = folder / "lesson.json"
    source.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return Lesson(source=source, images=images, exam=tuple(exam))


def save_processor(folder: Path) -> int:
    """A LLaVA processor whose tokenizer knows the scenes' words alone; as a Hugging Face folder.

    Returns:
        The id of its image token.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    specials = ["<pad>", "<s>", "</s>", "<unk>", IMAGE_PLACEHOLDER]
    ids = {word: number for number, word in enumerate([*specials, *_words()])}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[IMAGE_PLACEHOLDER],
        chat_template=_CHAT_TEMPLATE,
    )
    image_processor = CLIPImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_center_crop=False
    )
    LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        image_token=IMAGE_PLACEHOLDER,
        chat_template=_CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return ids[IMAGE_PLACEHOLDER]


def save_untrained(folder: Path, seed: int = 0) -> Path:
    """A LLaVA of 230,000 weights that has learned nothing, with its processor, as a folder.

    Its weights are drawn wider than large models' are: with so few channels, small numbers would
    take long to grow.
    """
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    image_token = save_processor(folder)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = LlamaConfig(
        **sizes,
        intermediate_size=168,
        vocab_size=_VOCABULARY,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
    )
    vision = CLIPVisionConfig(
        **sizes, intermediate_size=256, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE
    )
    model = Llava(
        LlavaConfig(
            text_config=text,
            vision_config=vision,
            image_token_index=image_token,
            image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
            vision_feature_layer=-1,
        )
    )
    draw = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "embed_tokens" in name or "position_embedding" in name or "class_embedding" in name:
            weight.data.normal_(0, 0.5, generator=draw)
        elif weight.dim() > 1:
            weight.data.normal_(0, weight[0].numel() ** -0.5, generator=draw)
    model.save_pretrained(folder)
    return folder


def ask(
    model: Any, processor: Any, exam: Sequence[Exam], pictures: Sequence[Path] | None = None
) -> list[str]:
    """What a Hugging Face model answers, word by word the likeliest.

    Args:
        model: LlavaForConditionalGeneration.
        processor: its processor.
        exam: the questions.
        pictures: shown in place of the questions' own.

    Returns:
        An answer for each question.
    """
    import torch
    from PIL import Image

    shown = pictures or [one.picture for one in exam]
    answers = []
    # Of one length each, so that no padding is needed.
    texts = [f"{IMAGE_PLACEHOLDER} {one.question.text} " for one in exam]
    lengths = [len(processor.tokenizer(text).input_ids) for text in texts]
    found: dict[int, str] = {}
    for length in sorted(set(lengths)):
        numbers = [number for number, own in enumerate(lengths) if own == length]
        inputs = processor(
            images=[Image.open(shown[number]).convert("RGB") for number in numbers],
            text=[texts[number] for number in numbers],
            return_tensors="pt",
        )
        with torch.no_grad():
            rows = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        for number, row in zip(numbers, rows[:, inputs["input_ids"].shape[1] :], strict=True):
            found[number] = processor.tokenizer.decode(row, skip_special_tokens=True).strip()
    answers = [found[number] for number in range(len(exam))]
    return answers


def score(exam: Sequence[Exam], answers: Sequence[str]) -> float:
    """Share of the answers that are right to the letter."""
    right = sum(one.question.answer == answer for one, answer in zip(exam, answers, strict=True))
    return right / len(exam)


def _scenes(seed: int, topics: Sequence[str]) -> Iterator[tuple[int, Scene]]:
    """Simple scenes with a question of these topics, and their numbers."""
    for index in count():
        scene = make_simple_scene(seed, index)
        if any(question.topic in topics for question in questions(scene)):
            yield index, scene


def _choose(found: Iterable[Question], topics: Sequence[str], random: Random) -> list[Question]:
    """Some of the questions; what only pictures of one shape have is twice among them."""
    pool = [question for question in found if question.topic in topics]
    pool += [question for question in pool if question.topic in ("color", "shape")]
    return random.sample(pool, k=min(_MOST_QUESTIONS, len(pool)))


def _record(record_id: str, image: str, asked: Sequence[Question]) -> dict[str, Any]:
    turns = []
    for number, question in enumerate(asked):
        mark = f"{IMAGE_PLACEHOLDER} " if number == 0 else ""
        turns.append({"from": "human", "value": f"{mark}{question.text}"})
        turns.append({"from": "gpt", "value": question.answer})
    return {"id": record_id, "image": image, "conversations": turns}


def _words() -> list[str]:
    """Every word of simple scenes' questions and answers, of all topics that have short answers."""
    words: set[str] = set()
    for index in range(400):
        for question in questions(make_simple_scene(0, index)):
            if question.topic != "description":
                text = f"{question.text} {question.answer}".replace("?", " ?")
                words |= set(text.split())
    words |= {color.capitalize() for color in COLORS} | {kind.capitalize() for kind in KINDS}
    words |= {word for place in PLACES for word in place.capitalize().split()}
    return sorted(words)
