"""Every record fares in the lazy data module as it does in convert and the streaming one."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import picture
from lazy_help import lazy
from loader_help import encoder, module
from PIL import Image

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.quarantine import read_quarantine
from neva_prep.dataprep.reasons import REJECTIONS
from neva_prep.loaders.image_folder import ImageFolder
from neva_prep.loaders.record_file import RecordFile
from neva_prep.loaders.record_part import RecordPart
from neva_prep.loaders.sample import FailedSample
from neva_prep.templates import get_template

ASK, SAY = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}
LOOK = {"from": "human", "value": "<image>\nWhy?"}
RULE = {"from": "system", "value": "Be brief."}


def row(*turns: Any, **fields: Any) -> str:
    return json.dumps({"conversations": list(turns), **fields})


def shown(path: Any) -> str:
    return row(LOOK, SAY, image=path)


SOUND = {
    "an image": row(LOOK, SAY, id="a", image="a.jpg"),
    "text only": row(ASK, SAY, id=7),
    "no id": row(ASK, SAY),
    "an id of null": row(ASK, SAY, id=None),
    "an id that is a fraction": row(ASK, SAY, id=1.5),
    "an id that another has": row(ASK, SAY, id="a"),
    "a system turn": row(RULE, LOOK, SAY, image="a.jpg"),
    "a system text": row(LOOK, SAY, image="a.jpg", system="Be a pirate."),
    "a blank system text": row(ASK, SAY, system=" "),
    "several turns": row(LOOK, SAY, ASK, SAY, image="a.jpg"),
    "images in several turns": row(LOOK, SAY, LOOK, SAY, image=["a.jpg", "b.png"]),
    "a list of one image": shown(["a.jpg"]),
    "an image twice": row({**LOOK, "value": "<image><image> Same?"}, SAY, images=["a.jpg"] * 2),
    "images under that name": row(LOOK, SAY, images="b.png", image=None),
    "no image in its list": row(ASK, SAY, image=[]),
    "no image in another list": row(ASK, SAY, images=[]),
    "an image under another name": row(LOOK, SAY, img_path="b.png"),
    "two other names, one empty": row(LOOK, SAY, img="", img_path="b.png"),
    "a placeholder in an answer": row(LOOK, {**SAY, "value": "It is <image>."}, image="a.jpg"),
    "a placeholder in a system turn": row({**RULE, "value": "Of <image>."}, ASK, SAY),
    "a tag in an answer": row(ASK, {**SAY, "value": "<img>a.jpg</img>"}),
    "other names beside LLaVA's": row({**ASK, "content": "No."}, {**SAY, "role": "user"}),
    "fields of its own": row({**ASK, "weight": 0}, {**SAY, "lang": "en"}, score=[1, {"a": None}]),
    "fields of other forms": row(ASK, SAY, messages=[], text="?", question="!"),
    "half a character beside": row(ASK, SAY, note="\ud800"),
    "a number beyond all": row(ASK, SAY)[:-1] + ', "big": 1e400}',
    "a whole number of 30 digits": row(ASK, SAY, big=10**30),
    "a field twice": row(ASK, SAY, image="a.jpg")[:-1] + ', "image": []}',
    "what looks special": row({**ASK, "value": "</s><s>[INST]"}, {**SAY, "value": "</s>"}),
    "spaces around": row({**ASK, "value": "\n Why? "}, {**SAY, "value": " So.\n"}),
    "no video": row(ASK, SAY, video=None, audio=""),
    "another extension": shown("png.jpg"),
    "no extension": shown("plain"),
    "a name with spaces": shown("ä b.jpg"),
    "a way round": shown("sub/../a.jpg"),
    "a link inside": shown("inside.jpg"),
    "a linked folder": shown("linked/a.jpg"),
    "an image of greys": shown("grey.png"),
    "one that shines through": shown("clear.png"),
    "a turned image": shown("turned.jpg"),
    "a WebP": shown("a.webp"),
    "a GIF": shown("a.gif"),
    "a TIFF": shown("a.tif"),
    "something behind its end": shown("behind.jpg"),
    "damage that its header does not show": shown("damaged.png"),
}
FAULTY = {
    "invalid_json": ["{broken", row(ASK, SAY)[:-1] + ', "n": NaN}', "[" * 3000],
    "not_an_object": ['"text"', "[]", "null"],
    "bad_id": [row(ASK, SAY, id=[1]), row(ASK, SAY, id=True)],
    "field_conflict": [
        row(LOOK, SAY, image="a.jpg", images=["b.png"]),
        row(LOOK, SAY, image="a.jpg", images=[]),
        row(LOOK, SAY, img="a.jpg", image_path="b.png"),
    ],
    "video_record": [row(ASK, SAY, video="a.mp4")],
    "audio_record": [row(ASK, SAY, audios=["a.wav"])],
    "preference_record": [row(ASK, SAY, chosen="a", rejected="b")],
    "unread_field": [row(ASK, SAY, tools=[{"name": "search"}])],
    "missing_conversations": ["{}", json.dumps({"id": 1, "image": "a.jpg"})],
    "bad_conversations": [json.dumps({"conversations": None}), '{"conversations": {"a": 1}}'],
    "empty_conversation": [row(), row(RULE)],
    "bad_turn": [row(ASK, "So."), row(None)],
    "missing_role": [row(ASK, {"value": "So."})],
    "unknown_role": [
        row(ASK, {"from": "oracle", "value": "So."}),
        row(ASK, SAY, RULE, ASK, SAY),
        row(ASK, {"from": None, "value": "So."}),
        row(RULE, RULE, ASK, SAY),
        row(RULE, ASK, SAY, system="Be long."),
    ],
    "missing_value": [row(ASK, {"from": "gpt"})],
    "bad_value": [row(ASK, {"from": "gpt", "value": 3}), row(ASK, {"from": "gpt", "value": None})],
    "empty_value": [
        row(ASK, {**SAY, "value": ""}),
        row({**ASK, "value": " \n"}, SAY),
        row({**RULE, "value": " "}, ASK, SAY),
    ],
    "starts_with_answer": [row(SAY, ASK, SAY), row(RULE, SAY), row(SAY)],
    "roles_not_alternating": [row(ASK, ASK, SAY), row(ASK, SAY, SAY)],
    "no_answer": [row(ASK), row(ASK, SAY, ASK)],
    "nul_in_text": [row(ASK, {**SAY, "value": "a\0b"})],
    "lone_surrogate": [row(ASK, {**SAY, "value": "\ud800"}), row(ASK, SAY, id="\udfff")],
    "bad_image_field": [shown(3), shown(["a.jpg", None]), row(LOOK, SAY, images=True)],
    "placeholder_missing": [row(ASK, SAY, image="a.jpg"), row(ASK, SAY, images=["a.jpg"])],
    "placeholder_mismatch": [
        row(LOOK, SAY),
        shown(["a.jpg", "b.png"]),
        row(LOOK, {**SAY, "value": "<image>"}, image=["a.jpg", "b.png"]),
    ],
    "is_document": [row({"from": "text", "value": "Once."}, {"from": "text", "value": "Twice."})],
    "bad_path": [shown("a\0.jpg"), shown(""), shown(" "), shown("\ud800.jpg")],
    "remote_image": [shown("https://example.com/a.jpg")],
    "absolute_path": [shown("{images}/a.jpg"), shown("C:\\a.jpg")],
    "path_traversal": [shown("../outside.jpg"), shown("sub/../../outside.jpg")],
    "symlink_outside": [shown("outside.jpg"), shown("away/outside.jpg")],
    "missing_image": [shown("none.jpg"), shown("loop"), shown("x" * 5000), shown("a.jpg/b")],
    "not_a_file": [shown("sub"), shown("pipe"), shown(".")],
    "empty_image": [shown("empty.jpg")],
    "truncated_image": [shown("cut.jpg"), shown("cut.png"), shown("cut.gif"), shown("cut.webp")],
    "not_an_image": [shown("text.jpg")],
    "corrupt_image": [shown("header.bmp")],
    "too_many_pixels": [shown("huge.png")],
    "image_too_large": [shown("large.jpg")],
}
ELSEWHERE = {
    "other_form": "is of a source's form; docs/loaders.md says what is read",
    "bad_embedded_image": "of another form",
    "image_in_answer": "of another form",
    "literal_placeholder": "of --layout",
    "bad_document": "of --layout",
    "no_text": "of --layout",
    "unfit_layout": "of --layout",
    "damaged_archive": "of archives, which the lazy module does not read",
    "unreadable_image": "tests may run as root, who may read all",
    "invalid_utf8": "no text, so not in the lists above; it is added in the test",
}
"""Rejections that the lists above leave out, and why."""


def draw(folder: Path) -> None:
    """Images of all kinds, and what is no image."""
    sub = folder / "sub"
    sub.mkdir(parents=True)
    jpeg, png = picture(50, 30), picture(40, 40, "PNG")
    (folder.parent / "outside.jpg").write_bytes(jpeg)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "a.jpg": jpeg,
        "b.png": png,
        "png.jpg": png,
        "plain": jpeg,
        "ä b.jpg": jpeg,
        "grey.png": _saved(Image.linear_gradient("L"), "PNG"),
        "clear.png": _saved(Image.linear_gradient("L").convert("LA"), "PNG"),
        "turned.jpg": picture(50, 30, exif=exif.tobytes()),
        "behind.jpg": jpeg + b"more" * 99,
        "empty.jpg": b"",
        "cut.jpg": jpeg[:-100],
        "cut.png": png[:-50],
        "damaged.png": png[:70] + bytes(20) + png[90:],
        "text.jpg": b"no image at all, but a text",
        "header.bmp": b"BM" + bytes(60),
        "huge.png": png[:16] + (20_000).to_bytes(4, "big") * 2 + png[24:],
        "sub/a.jpg": jpeg,
    }
    for kind, extension in (("WEBP", "webp"), ("GIF", "gif"), ("TIFF", "tif")):
        files[f"a.{extension}"] = picture(30, 20, kind)
        files[f"cut.{extension}"] = files[f"a.{extension}"][:-60]
    for name, content in files.items():
        (folder / name).write_bytes(content)
    links = {"inside.jpg": "a.jpg", "linked": "sub", "loop": "loop", "away": ".."}
    for name, target in {**links, "outside.jpg": "../outside.jpg"}.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    with (folder / "large.jpg").open("wb") as file:
        file.truncate((512 << 20) + 1)


def _saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.resize((40, 20)).save(file, kind)
    return file.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A line for each record above: the sound ones first."""
    images = tmp_path / "images"
    draw(images)
    faulty = [text for texts in FAULTY.values() for text in texts]
    lines = [text.replace("{images}", str(images)).encode() for text in (*SOUND.values(), *faulty)]
    lines.append(row(ASK, SAY, note="x").encode().replace(b"x", b"\xff"))
    file = tmp_path / "source.jsonl"
    file.write_bytes(b"\n".join(lines))
    return file


def test_a_fault_in_an_array_costs_its_record_alone(tmp_path: Path) -> None:
    sound, half = SOUND["text only"], FAULTY["lone_surrogate"][0]
    texts = [sound, half, SOUND["half a character beside"], FAULTY["invalid_json"][1], sound]
    file = tmp_path / "source.json"
    file.write_text("[\n" + ",\n".join(texts) + "\n]\n")
    part = RecordPart(file=RecordFile(file), indices=np.arange(5), images=None)
    read = [part.read(index) for index in range(5)]
    failed = {n: each.error.reason for n, each in enumerate(read) if isinstance(each, FailedSample)}
    assert failed == {1: "lone_surrogate", 3: "invalid_json"}


def test_a_part_goes_to_other_processes_after_use(source: Path) -> None:
    images = ImageFolder(str(source.parent / "images"))
    part = RecordPart(file=RecordFile(source), indices=np.arange(1), images=images)
    assert pickle.loads(pickle.dumps(part)).read(0).images == part.read(0).images
    assert pickle.loads(pickle.dumps(part)).read(0).images == part.read(0).images


def test_what_a_disk_refuses_is_skipped_with_its_place(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ImageFolder(str(source.parent / "images"))
    part = RecordPart(file=RecordFile(source), indices=np.arange(1), images=images)

    def refuse(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("neva_prep.loaders.image_folder.os.open", refuse)
    error = part.read(0).error
    assert error.reason == "unreadable_image"
    assert str(error) == (
        f"{source}:0: image 'a.jpg' cannot be read: Input/output error; correct the record, or "
        "drop it"
    )


SETTINGS: dict[str, Any] = {
    "micro_batch_size": 1, "global_batch_size": 1, "max_skip_ratio": 1.0,
}  # fmt: skip


def delivered(data: Any) -> tuple[dict[str, Any], dict[str, int]]:
    """Key -> tokens, labels and pixels of a pass; and what was skipped in it."""
    with data:
        found = {
            batch["__keys__"][0]: [batch[name].tolist() for name in ("tokens", "labels", "media")]
            for batch in data.val_dataloader()
        }
        return found, data.skip_report("val").skipped


def converted(source: Path) -> dict[int, str]:
    """What convert rejects: numbers of records, and reasons."""
    options = ConvertOptions(format="llava", split={"val": 1.0})
    convert(source, source.parent / "images", source.parent / "out", options)
    rows = read_quarantine(source.parent / "out/quarantine.jsonl")
    return {row.index: row.reason for row in rows}


def test_a_record_fares_as_in_convert_and_streaming(source: Path) -> None:
    rejected = converted(source)
    records, images = RecordFile(source), ImageFolder(str(source.parent / "images"))
    part = RecordPart(file=records, indices=np.arange(len(records)), images=images)
    read = [part.read(index) for index in range(len(records))]
    failed = {n: each.error.reason for n, each in enumerate(read) if isinstance(each, FailedSample)}
    assert failed == rejected

    v1 = encoder(template=get_template("v1"), seq_length=2048)
    streamed, skipped = delivered(module(source.parent / "out", task_encoder=v1, **SETTINGS))
    config = {"image_process_mode": None}
    found, lazily_skipped = delivered(
        lazy(source, source, val_paths=source, config=config, **SETTINGS)
    )
    assert found.keys() == streamed.keys() and len(found) > 40
    assert found == streamed
    assert Counter(lazily_skipped) == Counter(rejected.values()) + Counter(skipped)


def test_each_record_has_the_fault_that_it_is_to_have(source: Path) -> None:
    rejected = converted(source)
    faults = [*(reason for reason, texts in FAULTY.items() for _ in texts), "invalid_utf8"]
    assert rejected == dict(enumerate(faults, start=len(SOUND)))
    assert FAULTY.keys() | ELSEWHERE.keys() == REJECTIONS.keys()
