"""Real sources beside the checkout, as their authors published them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from convert_help import Row, read_quarantine, read_samples, run_cli, shared

from neva_prep.dataprep.convert import convert
from neva_prep.errors import RecordError

DATA = shared("data")
pytestmark = pytest.mark.skipif(DATA is None, reason="needs ../shared/data beside the checkout")


def run(out: Path, source: str, *options: str) -> tuple[int, Row, str]:
    """Exit code, report and messages of a conversion."""
    assert DATA is not None
    path = DATA / source
    done = run_cli("convert", path, "--images", path.parent, "--out", out, "--json", *options)
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout) if done.stdout else {}
    if report:
        assert report["records"] == report["samples"] + report["rejected"]
        assert report["samples"] == len(read_samples(out))
        assert report["rejected"] == len(read_quarantine(out))
    return done.returncode, report, done.stderr


def test_llava_instruct_without_its_images_is_wholly_quarantined_and_says_why(
    tmp_path: Path,
) -> None:
    source = "llava-instruct-100/llava_instruct_100.json"
    code, report, said = run(tmp_path / "out", source)
    assert code == 3
    assert report["rejections"] == {"missing_image": 100} and report["samples"] == 0
    assert "all 100 records were rejected (missing_image 100)" in said
    assert "Is --images the right folder?" in said and "000000379143.jpg" in said
    assert not (tmp_path / "out" / ".nv-meta").exists()
    given = json.loads((DATA or Path()).joinpath(source).read_text())
    assert [row["record"] for row in read_quarantine(tmp_path / "out")] == given


def test_llava_instruct_converts_with_pictures_under_the_names_it_gives(tmp_path: Path) -> None:
    assert DATA is not None
    source = DATA / "llava-instruct-100" / "llava_instruct_100.json"
    given: list[Row] = json.loads(source.read_text())
    pictures = sorted((DATA / "coco-mini" / "train2017").iterdir())
    images = tmp_path / "images"
    images.mkdir()
    for number, row in enumerate(given):
        content = pictures[number % len(pictures)].read_bytes()
        (images / row["image"]).write_bytes(content)
    out = tmp_path / "out"
    done = run_cli("convert", source, "--images", images, "--out", out, "--check", "decode")
    assert done.returncode == 0, done.stderr
    samples = read_samples(out)
    for row, (key, members) in zip(given, samples.items(), strict=True):
        stored = json.loads(members["json"])
        assert [entry["source"] for entry in stored.pop("images")] == [row["image"]], key
        assert json.dumps(stored) == json.dumps(row)
        assert members["000.jpg"] == (images / row["image"]).read_bytes()


# Sources of which no record is a conversation about images, or whose images are not there: each
# record says what is not as it should be, and none is converted by guessing.
OTHERS: dict[str, dict[str, int]] = {
    "llama-factory/data/mllm_audio_demo.json": {"audio_record": 3},
    "llama-factory/data/mllm_video_demo.json": {"video_record": 3},
    "llama-factory/data/mllm_video_audio_demo.json": {"video_record": 3},
    "mantis/data/examples/chat_video/train.json": {"video_record": 20},
    "mantis/data/examples/classification/train.json": {"missing_conversations": 100},
    "mantis/data/cls_training_example.json": {"missing_conversations": 1},
    "mantis/data/nlvr2/seed_demos.json": {"missing_conversations": 10},
    "mantis/data/synthetic/seed_demos.json": {"missing_conversations": 88},
    "mantis/data/training_example.json": {"missing_image": 2},
    "ms-swift/tests/llm/data/swift_pre.jsonl": {"missing_conversations": 3},
    "ms-swift/tests/llm/data/multi_modal_2.jsonl": {"remote_image": 2, "placeholder_missing": 1},
    "vqa-nle-llava/result/human/res.json": {"missing_image": 100},
    "xcomposer/InternLM-XComposer-2.5-Reward/training/data/example.json": {"preference_record": 1},
    "xcomposer/finetune/data/multi_turn_multi_images_example.json": {"missing_image": 2},
    "xcomposer/finetune/data/single_turn_single_image_example.json": {"placeholder_missing": 2},
}


@pytest.mark.parametrize("source", OTHERS)
def test_source_without_a_sample_is_rejected_record_by_record_with_its_reason(
    tmp_path: Path, source: str
) -> None:
    path = (DATA or Path()) / source
    report = convert(path, path.parent, tmp_path / "out")
    assert report.samples == 0 and report.rejections == OTHERS[source]
    rows = read_quarantine(tmp_path / "out")
    assert Counter(row["reason"] for row in rows) == OTHERS[source]
    assert [row["record"] for row in rows] == given_records(path)


def given_records(path: Path) -> list[Any]:
    text = path.read_text()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    records: list[Any] = json.loads(text)
    return records


NO_LISTS = {
    "xcomposer/InternLM-XComposer-1.0/finetune/ds_config_zero2.json": "the keys fp16, ",
    "xcomposer/InternLM-XComposer-1.0/finetune/mix_debug_data.json": "",
    "coco-mini/train2017/000000000790.jpg": "begins with",
    "mantis/LICENSE": "begins with",
}


@pytest.mark.parametrize("source", NO_LISTS)
def test_file_that_is_no_list_of_records_is_refused_as_a_whole(tmp_path: Path, source: str) -> None:
    path = (DATA or Path()) / source
    with pytest.raises(RecordError) as caught:
        convert(path, path.parent, tmp_path / "out")
    said = str(caught.value)
    assert said.startswith(str(path)) and NO_LISTS[source] in said and len(said) < 600
