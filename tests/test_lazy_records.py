"""A record means the same to the lazy data module as to convert, or is skipped with its reason."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from handmade import picture
from lazy_help import lazy
from loader_help import encoder, module, spell

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.readers.chat import read_chat
from neva_prep.errors import RecordError
from neva_prep.loaders.record_fields import read_fields
from neva_prep.templates import get_template

Record = dict[str, Any]


def talk(question: str = "<image>\nWhy?", **fields: Any) -> Record:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "So."}]
    return {"conversations": turns, **fields}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(picture())
    (tmp_path / "images/b.png").write_bytes(picture(kind="PNG"))
    return tmp_path / "source.json"


def write(source: Path, *records: Record) -> None:
    source.write_text(json.dumps([{"id": n, **record} for n, record in enumerate(records)]))


def meant(data: Any, batches: int) -> set[tuple[str, str, int]]:
    """Tokens, trained tokens and number of images of the samples."""
    return {
        (
            spell(batch["tokens"][0]),
            spell(token for token in batch["labels"][0] if token >= 0),
            len(batch["media"]),
        )
        for batch in islice(data.train_dataloader(), batches)
    }


def settings() -> dict[str, Any]:
    return {"micro_batch_size": 1, "global_batch_size": 1}


def test_records_mean_the_same_as_to_convert(source: Path) -> None:
    records = [
        talk(image="a.jpg"),
        talk(image="a.jpg", system="Be a pirate."),
        talk("Why?", system="Be brief.", image=None),
        talk("<image><image> Why?", images=["a.jpg", "b.png"], image=None),
        talk("How? <image>", image_path="b.png"),
        talk("When?", image=[]),
    ]
    write(source, *records)
    out = source.parent / "out"
    report = convert(source, source.parent / "images", out, ConvertOptions())
    assert report.samples == len(records)
    v1 = encoder(template=get_template("v1"))
    with module(out, task_encoder=v1, shuffle_buffer_size=None, **settings()) as shards:
        expected = meant(shards, len(records))
    config = {"val_fraction": 0.0, "image_process_mode": None}
    with lazy(source, source, config=config, **settings()) as data:
        assert meant(data, len(records)) == expected
    assert len(expected) == len(records)
    assert any("Be a pirate." in tokens for tokens, _, _ in expected)


def said(*parts: Any, answer: Any = "So.", **fields: Any) -> Record:
    turns = [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **fields}


WHY = {"type": "text", "text": "Why?"}
PARTS: dict[str, tuple[Record, str]] = {
    "texts": (said(WHY, "How?", answer=[WHY]), ""),
    "OpenAI's names": (said({"type": "input_text", "text": "Why?"}), ""),
    "an image that is listed": (said({"type": "image"}, WHY, image="a.jpg"), ""),
    "an image with its path": (said({"type": "image", "path": "a.jpg"}, WHY), "other_form"),
    "an image by its address": (
        said({"type": "image_url", "image_url": {"url": "a.jpg"}}, WHY),
        "other_form",
    ),
    "an image in an answer": (said(WHY, answer=[{"type": "image"}]), "image_in_answer"),
    "a video": (said({"type": "video"}, WHY), "video_record"),
    "a number": (said(3), "bad_value"),
    "a text that is none": (said({"type": "text", "text": 3}), "bad_value"),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_message_are_read_or_refused_by_reason(name: str) -> None:
    record, reason = PARTS[name]
    if reason:
        with pytest.raises(RecordError) as raised:
            read_fields(record)
        assert raised.value.reason == reason
        return
    messages, paths = read_fields(record)
    found = read_chat(json.dumps(record).encode()).record
    assert [(turn["from"], turn["value"]) for turn in messages] == [
        (turn.role, turn.value) for turn in found.turns
    ]
    assert tuple(paths) == found.images


def test_the_text_that_was_checked_is_the_one_that_is_trained(source: Path) -> None:
    record = talk("Why?")
    record["conversations"][0]["content"] = "Another?"
    record["conversations"][1]["role"] = "user"
    write(source, record)
    out = source.parent / "out"
    convert(source, source.parent / "images", out, ConvertOptions())
    v1 = encoder(template=get_template("v1"))
    with module(out, task_encoder=v1, shuffle_buffer_size=None, **settings()) as shards:
        ((tokens, trained, _),) = meant(shards, 1)
    assert tokens.endswith("USER: Why? ASSISTANT: So.") and trained == " So.</s>"


REFUSED: dict[str, tuple[Record, str]] = {
    "video": (talk("<video>\nWhy?", video="a.mp4"), "video_record"),
    "sound": (talk("Why?", audios=["a.wav"]), "audio_record"),
    "tools": (talk("Why?", tools=[{"name": "search"}]), "unread_field"),
    "answers to choose from": (talk("Why?", chosen="a", rejected="b"), "preference_record"),
    "images twice": (talk(image="a.jpg", images=["b.png"]), "field_conflict"),
    "other images twice": (talk(img="a.jpg", image_path="b.png"), "field_conflict"),
    "system twice": (
        {"system": "A", "messages": [{"role": "system", "content": "B"}]},
        "unknown_role",
    ),
    "an image that no text asks for": (talk("Why?", image_path="a.jpg"), "placeholder_missing"),
    "an image in the text": (talk("Picture 1: <img>a.jpg</img>\nWhy?"), "other_form"),
}


def test_what_a_record_says_elsewhere_is_never_left_out_silently(source: Path) -> None:
    write(source, talk(image="a.jpg"), *(record for record, _ in REFUSED.values()))
    config = {"val_fraction": 0.0}
    with lazy(source, source, config=config, max_skip_ratio=1.0, **settings()) as data:
        batches = list(islice(data.train_dataloader(), 2))
        report = data.skip_report()
    assert all(batch["__keys__"] == ["000000000"] for batch in batches)
    assert set(report.skipped) == {reason for _, reason in REFUSED.values()}
