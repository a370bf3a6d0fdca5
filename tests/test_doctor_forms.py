"""What the doctor takes a source for: by its bytes and fields, never by its name."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from convert_help import record, shared, text_record, turns
from handmade import picture, write_dataset

from neva_prep.dataprep.readers.form import FORMS
from neva_prep.dataprep.readers.recognize import Recognized, recognize

DATA = shared("data")
CHAT = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}]
COCO = {"images": [{"id": 1}], "annotations": [{"image_id": 1, "id": 2, "caption": "A cat."}]}
BOXES = {"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.json"))
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.json", "[]")
    return file.getvalue()


def look(folder: Path, content: Any) -> Recognized:
    path = folder / "source.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return recognize(path)


LINES = b"\n".join(json.dumps(text_record(str(n))).encode() for n in range(3))
DOCUMENTS = "\n".join(json.dumps(record(name), indent=1) for name in "ab").encode()
INTERN_META = {"coco": {"root": "coco/", "annotation": "coco.jsonl", "length": 2}}
SOURCES: dict[str, tuple[Any, str, str]] = {
    # What -> content, name, layout.
    "LLaVA array": ([record("a")], "llava", "array"),
    "LLaVA lines": (LINES, "llava", "lines"),
    "LLaVA with a byte order mark": (b"\xef\xbb\xbf" + LINES, "llava", "lines"),
    "one LLaVA record": (record("a"), "llava", "object"),
    "InternVL": ([record("a", width=3, height=4)], "internvl", "array"),
    "InternVL meta": (INTERN_META, "internvl-meta", "object"),
    "messages": ([{"messages": CHAT}], "messages", "array"),
    "Mantis": ([{"conversation": CHAT}], "messages", "array"),
    "content parts": ([{"messages": PARTS}], "content-parts", "array"),
    "other roles": ([{"conversations": [{"from": "user", "value": "a"}]}], "sharegpt", "array"),
    "Qwen-VL": ([{"conversations": turns("<img>a.jpg</img>b", "c")}], "qwen-vl", "array"),
    "XComposer": ([{"conversations": turns("<ImageHere>b", "c")}], "xcomposer", "array"),
    "pairs": ([{"conversation": [{"human": "a", "assistant": "b"}]}], "pairs", "array"),
    "Alpaca": ([{"instruction": "a", "output": "b"}], "alpaca", "array"),
    "COCO captions": (COCO, "coco-captions", "object"),
    "COCO boxes": (BOXES, "coco", "object"),
    "COCO captions with texts": ({**COCO, "texts": ["a"]}, "coco-captions", "object"),
    "VQAv2 questions with a text": ({"questions": [], "text": "a"}, "vqav2-questions", "object"),
    "VQAv2 questions": ({"questions": [{"question_id": 1}]}, "vqav2-questions", "object"),
    "VQAv2 answers": ({"annotations": [{"question_id": 1}]}, "vqav2-annotations", "object"),
    "VQA rows": ([{"question": "a", "answer": "b"}], "vqa", "array"),
    "wrapped": ({"info": 1, "data": [record("a")]}, "llava", "object"),
    "wrapped behind another list": (
        {"categories": [{"id": 1, "name": "x"}], "data": [record("a")]},
        "llava",
        "object",
    ),
    "several lists": ({"train": [record("a")], "test": [record("b")]}, "lists-by-name", "object"),
    "wrapped, and large": (
        {"data": [record("a", "data:image/jpeg;base64," + "A" * (2 << 20))]},
        "sharegpt",
        "object",
    ),
    "one large record": (record("a", other="x" * (2 << 20)), "llava", "object"),
    "wrapped values": ({"data": [{"a": 1}]}, "wrapped", "object"),
    "preferences": ([{"chosen": "a", "rejected": "b"}], "preferences", "array"),
    "captions": ([{"image": "a.jpg", "caption": "b"}], "captions", "array"),
    "query": ([{"query": "a", "response": "b"}], "query", "array"),
    "queries of search": ([{"query": "a", "question": "b", "response": "c"}], "unknown", "array"),
    "a system field": ([text_record("a", system="Be kind.")], "sharegpt", "array"),
    "images as objects": ([record("a", {"path": "a.jpg"})], "sharegpt", "array"),
    "other marks": ([record("a", conversations=turns("<image1>", "b"))], "sharegpt", "array"),
    "documents of texts and images": ([{"texts": ["a"], "images": [None]}], "obelics", "array"),
    "keyed": ({"a": record("a"), "b": record("b")}, "keyed", "object"),
    "documents": (DOCUMENTS, "documents", "objects"),
    "lists": ([[record("a")]], "lists", "array"),
    "values": ([1, 2], "values", "array"),
    "CSV": (b"image,question,answer\na.jpg,b,c\n", "csv", "file"),
    "TSV": (b"image\tquestion\na.jpg\tb\n", "tsv", "file"),
    "Parquet": (b"PAR1\0\0", "parquet", "file"),
    "tar": (tar(), "tar", "file"),
    "tar.gz": (gzip.compress(tar()), "tar.gz", "file"),
    "gzip": (gzip.compress(LINES), "gzip", "file"),
    "zip": (zipped(), "zip", "file"),
    "pickle": (pickle.dumps([record("a")]), "pickle", "file"),
    "UTF-16": ("[{}]".encode("utf-16"), "utf-16", "file"),
    "a page": (b"<!DOCTYPE html><title>Sign in</title>", "html", "file"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "lfs", "file"),
    "image": (picture(), "image", "file"),
    "empty": (b" \n", "empty", "file"),
    "words": (b"hello there\n", "text", "file"),
}
READ = {
    "llava",
    "internvl",
    "messages",
    "content-parts",
    "sharegpt",
    "qwen-vl",
    "xcomposer",
    "pairs",
}
READ |= {"alpaca", "query", "vqa", "captions", "obelics"}
READ |= {"coco-captions", "vqav2-questions", "csv", "tsv", "parquet", "tar"}


@pytest.mark.parametrize("what", SOURCES)
def test_form_is_recognized_with_its_reason(tmp_path: Path, what: str) -> None:
    content, name, layout = SOURCES[what]
    found = look(tmp_path, content)
    assert (found.name, found.layout) == (name, layout)
    assert found.why and found.title
    assert found.is_read == (name in READ)
    assert (found.form in FORMS) if found.is_read and not found.way_out else found.way_out


def test_the_most_frequent_form_counts_and_the_others_are_told(tmp_path: Path) -> None:
    found = look(tmp_path, [{"messages": CHAT}, *[record(str(n)) for n in range(4)]])
    assert found.name == "llava" and "4 of the first 5 records (1 messages)" in found.why


def test_folder_is_recognized(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    assert recognize(dataset).name == "dataset"
    (dataset / "neva-prep.json").unlink()
    assert recognize(dataset).name == "energon"
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "0.tar").write_bytes(tar())
    assert recognize(tmp_path / "tars").name == "webdataset"
    assert recognize(tmp_path).name == "folder"
    (tmp_path / "chat.jsonl").write_bytes(LINES)
    assert "chat.jsonl" in recognize(tmp_path).way_out


def test_what_a_record_holds_is_not_trusted_to_be_of_any_type(tmp_path: Path) -> None:
    odd: list[Any] = [None, 1, "a", [], {}, {"conversations": 3}, {"conversations": [None]}]
    odd += [{"conversations": [{"from": 1, "value": 2}]}, {"messages": [{"role": None}]}]
    for value in odd:
        assert look(tmp_path, [value]).name


REAL = {
    "llama-factory/data/mllm_demo.json": "messages",
    "llama-factory/data/v1_multimodal_demo.jsonl": "content-parts",
    "llama-factory/data/alpaca_zh_demo.first150.json": "alpaca",
    "mantis/data/examples/chat/train.json": "messages",
    "ms-swift/tests/llm/data/sharegpt.jsonl": "pairs",
    "ms-swift/tests/llm/data/swift_single.jsonl": "query",
    "ms-swift/tests/llm/data/alpaca.csv": "csv",
    "vqa-nle-llava/result/human/res.json": "vqa",
    "xcomposer/finetune/data/multi_turn_multi_images_example.json": "xcomposer",
    "xcomposer/finetune/data/only_text_example.json": "sharegpt",
    "coco-mini/annotations/captions_train2017.json": "coco-captions",
    "llava-instruct-100/llava_instruct_100.json": "llava",
}


@pytest.mark.skipif(DATA is None, reason="needs ../shared/data beside the checkout")
@pytest.mark.parametrize("source", REAL)
def test_real_source_is_recognized(source: str) -> None:
    assert recognize((DATA or Path()) / source).name == REAL[source]
