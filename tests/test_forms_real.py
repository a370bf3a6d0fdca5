"""Real sources of other forms than LLaVA's: what is converted says what their files say.

The files are read here once more, by the few lines that each form takes, with json alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from convert_help import Row, files_of, read_quarantine, read_samples, run_cli, shared
from test_real_sources import given_records

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions

DATA = shared("data")
pytestmark = pytest.mark.skipif(DATA is None, reason="needs ../shared/data beside the checkout")
Said = tuple[list[tuple[str, str]], list[str]]
NAMES = {"user": "human", "assistant": "gpt", "bot": "gpt", "system": "system", "human": "human"}


def messages(row: Row) -> Said:
    """LLaMA-Factory, Mantis, ChatML: role and content."""
    talk = row.get("messages") or row["conversation"]
    return [(NAMES[turn["role"]], turn["content"]) for turn in talk], row.get("images", [])


def parts(row: Row) -> Said:
    """LLaMA-Factory's v1: role, and content as parts."""
    talk, images = [], []
    for turn in row["messages"]:
        text = ""
        for part in turn["content"]:
            if part["type"] == "text":
                text += part["value"]
            else:
                text += "<image>"
                images.append(part["value"])
        talk.append((NAMES[turn["role"]], text))
    return talk, images


def from_value(row: Row) -> Said:
    """ms-swift's conversations and XComposer."""
    talk = [(NAMES[turn["from"]], turn["value"]) for turn in row["conversations"]]
    talk = [(role, text.replace("<ImageHere>", "<image>")) for role, text in talk]
    image = row.get("image", [])
    return talk, image if isinstance(image, list) else [image]


def shown_first(row: Row) -> Said:
    """XComposer's single images, which stand before the question."""
    (role, text), *talk = from_value(row)[0]
    return [(role, "<image>\n" + text), *talk], [row["image"]]


def system_of(row: Row) -> list[tuple[str, str]]:
    return [("system", row["system"])] if "system" in row else []


def pairs(row: Row) -> Said:
    """ms-swift's ShareGPT."""
    talk = system_of(row)
    for pair in row["conversation"]:
        talk += [("human", pair["human"]), ("gpt", pair["assistant"])]
    return talk, []


def query(row: Row) -> Said:
    """ms-swift's query and response, and Alpaca."""
    talk = system_of(row)
    for question, answer in row.get("history", []):
        talk += [("human", question), ("gpt", answer)]
    asked = row["query"] if "query" in row else row["instruction"]
    asked += "\n" + row["input"] if row.get("input") else ""
    talk += [("human", asked), ("gpt", row["response"] if "response" in row else row["output"])]
    return talk, []


def vqa(row: Row) -> Said:
    """VQA-NLE: one question about one image."""
    asked = "<image>\n" + row["question"]
    return [("human", asked), ("gpt", row["short_answer"])], [row["img_id"]]


# Source -> folder of its images, how it is read here, form it is taken for, samples.
SOURCES: dict[str, tuple[str, Callable[[Row], Said], str, int]] = {
    "llama-factory/data/mllm_demo.json": ("llama-factory/data", messages, "messages", 6),
    "llama-factory/data/v1_multimodal_demo.jsonl": ("llama-factory", parts, "messages", 24),
    "llama-factory/data/alpaca_zh_demo.first150.json": ("", query, "alpaca", 150),
    "llama-factory/data/identity.json": ("", query, "alpaca", 91),
    "mantis/data/examples/chat/train.json": (
        "mantis/data/examples/chat", messages, "messages", 50
    ),
    "ms-swift/tests/llm/data/alpaca.jsonl": ("", query, "alpaca", 3),
    "ms-swift/tests/llm/data/chatml.jsonl": ("", messages, "messages", 3),
    "ms-swift/tests/llm/data/conversations.jsonl": ("", from_value, "sharegpt", 3),
    "ms-swift/tests/llm/data/multi_modal_1.jsonl": ("", query, "query", 1),
    "ms-swift/tests/llm/data/sharegpt.jsonl": ("", pairs, "pairs", 3),
    "ms-swift/tests/llm/data/swift_multi.json": ("", query, "query", 3),
    "ms-swift/tests/llm/data/swift_multi.jsonl": ("", query, "query", 3),
    "ms-swift/tests/llm/data/swift_single.jsonl": ("", query, "query", 3),
    "vqa-nle-llava/result/multi-step-501/res.json": (
        "vqa-nle-llava/dataset/img", vqa, "vqa", 225
    ),
    "vqa-nle-llava/result/single-step-ViP-501/res.json": (
        "vqa-nle-llava/dataset/img", vqa, "vqa", 205
    ),
    "xcomposer/finetune/data/multi_turn_multi_images_example.json": (
        "xcomposer/finetune", from_value, "xcomposer", 2
    ),
    "xcomposer/finetune/data/only_text_example.json": ("", from_value, "sharegpt", 2),
    "xcomposer/finetune/data/single_turn_single_image_example.json": (
        "xcomposer/finetune", shown_first, "sharegpt", 2
    ),
}  # fmt: skip
TAKEN = {"conversations", "messages", "conversation", "image", "images", "img_id", "system"}
TAKEN |= {"query", "response", "history", "instruction", "input", "output"}
TAKEN |= {"question", "short_answer"}


@pytest.mark.parametrize("name", SOURCES)
def test_source_says_the_same_in_the_dataset(tmp_path: Path, name: str) -> None:
    folder, read, form, samples = SOURCES[name]
    source, images = (DATA or Path()) / name, (DATA or Path()) / (folder or Path(name).parent)
    options = ConvertOptions(placeholder="insert" if read is shown_first else "reject")
    report = convert(source, images, tmp_path / "out", options)
    assert report.format.startswith(f"{form}-") and report.format_why
    assert (report.samples, report.rejected) == (samples, report.records - samples)
    given, rows = given_records(source), read_quarantine(tmp_path / "out")
    stored = read_samples(tmp_path / "out")
    assert {int(key) for key in stored} == set(range(len(given))) - {row["index"] for row in rows}
    for row in rows:
        assert row["record"] == given[row["index"]]
        assert row["reason"] in ("missing_image", "remote_image")
    for key, members in stored.items():
        check_sample(key, members, given[int(key)], *read(given[int(key)]), images)


def check_sample(
    key: str, members: dict[str, bytes], row: Row, talk: Any, paths: list[str], images: Path
) -> None:
    member = json.loads(members["json"])
    assert [(turn["from"], turn["value"]) for turn in member["conversations"]] == talk, key
    assert [entry["source"] for entry in member["images"]] == paths, key
    for entry in member["images"]:
        assert members[entry["name"]] == (images / entry["source"]).read_bytes(), key
    kept = {name: value for name, value in row.items() if name not in TAKEN}
    assert {name: member[name] for name in kept} == kept, key


def test_form_is_told_on_stderr_and_the_same_bytes_come_from_two_workers(tmp_path: Path) -> None:
    source = (DATA or Path()) / "mantis/data/examples/chat/train.json"
    common = ("convert", source, "--images", source.parent, "--shard-count", "9")
    done = run_cli(*common, "--out", tmp_path / "1", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "train.json: read as messages; conversation with role and content" in done.stderr
    quiet = run_cli(*common, "--out", tmp_path / "2", "--workers", "2", "--json")
    assert quiet.stderr == "" and json.loads(quiet.stdout)["format"] == "messages-json"
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") != {}
