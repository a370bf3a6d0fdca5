"""Layouts: energon's typed samples, read by energon alone, by our loaders, and told apart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from convert_help import Converted, Row, convert_in, files_of, record, turns
from handmade import picture
from loader_help import module

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.layouts import LAYOUTS
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.stats.run import stats
from neva_prep.dataprep.verify import verify
from neva_prep.errors import ConfigError, ShardError
from neva_prep.loaders.dataset_kind import LOADER_FILE, check_typed_dataset

IMAGES = {
    "a.jpg": picture(40, 30),
    "b.png": picture(20, 10, "PNG"),
    "c.webp": picture(8, 6, "WEBP"),
}
TYPED = [name for name in LAYOUTS if name != "neva"]

ENERGON = """
import dataclasses, json, sys
from megatron.energon import DefaultTaskEncoder, WorkerConfig, get_loader, get_train_dataset

def plain(value):
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "shape"):
        return list(value.shape) if value.ndim == 3 else value.tolist()
    return value

def fields(sample):
    names = [field.name for field in dataclasses.fields(sample) if not field.name.startswith("_")]
    return {name: plain(getattr(sample, name)) for name in names}

for path in sys.argv[1:]:
    dataset = get_train_dataset(
        path, worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0), batch_size=None,
        shuffle_buffer_size=None, max_samples_per_sequence=None, repeat=False,
        task_encoder=DefaultTaskEncoder(),
    )
    print(json.dumps([[type(sample).__name__, fields(sample)] for sample in get_loader(dataset)]))
assert not any(name.startswith("neva_prep") for name in sys.modules)
"""


def by_energon(*paths: Path) -> list[list[tuple[str, Row]]]:
    """Type and fields of each dataset's samples, by energon alone; an image is its shape."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENERGON, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]


def document(name: str, *pieces: str, image: Any = ("a.jpg",)) -> Row:
    """A document in the form into which its readers bring it."""
    talk = [{"from": "text", "value": piece} for piece in pieces]
    return {"id": name, "image": list(image), "conversations": talk}


ONE = record("one", "a.jpg")
TWICE = record("two turns", "b.png", conversations=turns("<image>\nWhat?", "A.", "And?", "B."))
WEBP = record("webp", "c.webp", conversations=turns("<image>", "Une boîte."))
PAGE = document("page", "First.", "<image>", "Then.", "<image>", "Last.", image=("a.jpg", "b.png"))
SYSTEM = record(
    "system", conversations=[{"from": "system", "value": "Be brief."}, *ONE["conversations"]]
)
NO_IMAGE = record("no image", ..., conversations=turns("Why?", "So."))
TWO_IMAGES = record(
    "two images", ["a.jpg", "b.png"], conversations=turns("<image> or <image>?", "The first.")
)
LITERAL = record("literal", "a.jpg", conversations=turns("<image>\nSpell it.", "It is <image>."))
TAIL = document("tail", "First.", "<image>")
TIE = document("tie", "<image>", "<image>", "Both.", image=("a.jpg", "b.png"))
RECORDS = [ONE, TWICE, WEBP, PAGE, SYSTEM, NO_IMAGE, TWO_IMAGES, LITERAL, TAIL, TIE]

A, B, C = [3, 30, 40], [3, 10, 20], [3, 6, 8]
EXPECTED: dict[str, list[Row]] = {
    "vqa": [
        {"image": A, "context": "<image>\nWhat is it?", "answers": "A picture."},
        {"image": B, "context": ["<image>\nWhat?", "And?"], "answers": ["A.", "B."]},
        {"image": C, "context": "<image>", "answers": "Une boîte."},
    ],
    "captioning": [
        {"image": A, "caption": "A picture."},
        {"image": C, "caption": "Une boîte."},
    ],
    "interleaved": [
        {"sequence": [A, "\nWhat is it?", "A picture."]},
        {"sequence": [B, "\nWhat?", "A.", "And?", "B."]},
        {"sequence": [C, "Une boîte."]},
        {"sequence": ["First.", A, "Then.", B, "Last."]},
        {"sequence": ["Be brief.", [3, 24, 32], "\nWhat is it?", "A picture."]},
        {"sequence": [A, " or ", B, "?", "The first."]},
        {"sequence": ["First.", A]},
        {"sequence": [A, B, "Both."]},
    ],
    "similarity": [
        {"images": [A, B], "texts": ["First.", "Then.", "Last."], "matched_text_indices": [1, 2]},
    ],
}
REJECTED = {
    "vqa": {
        "page": "is_document",
        "system": "unfit_layout",
        "no image": "unfit_layout",
        "two images": "unfit_layout",
        "literal": "literal_placeholder",
        "tail": "is_document",
        "tie": "is_document",
    },
    "captioning": {
        "two turns": "unfit_layout",
        "page": "is_document",
        "system": "unfit_layout",
        "no image": "unfit_layout",
        "two images": "unfit_layout",
        "literal": "literal_placeholder",
        "tail": "is_document",
        "tie": "is_document",
    },
    "interleaved": {"no image": "unfit_layout", "literal": "literal_placeholder"},
    "similarity": {
        **dict.fromkeys(("one", "two turns", "webp", "system", "two images"), "unfit_layout"),
        "no image": "unfit_layout",
        "literal": "literal_placeholder",
        "tail": "unfit_layout",
        "tie": "unfit_layout",
    },
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Converted]:
    """The records in each layout."""
    root = tmp_path_factory.mktemp("layouts")
    return {
        name: convert_in(root / name, RECORDS, IMAGES, layout=name, shard_count=1) for name in TYPED
    }


def test_energon_alone_reads_the_samples_and_the_rest_is_told(
    datasets: dict[str, Converted],
) -> None:
    read = by_energon(*(done.out for done in datasets.values()))
    for (layout, done), found in zip(datasets.items(), read, strict=True):
        told = {row["id"]: row for row in done.rows}
        assert {name: row["reason"] for name, row in told.items()} == REJECTED[layout]
        assert all("--layout" in row["message"] for row in done.rows if "unfit" in row["reason"])
        assert {name for name, _ in found} == {LAYOUTS[layout].kind.sample_type}
        fields = [{k: v for k, v in row.items() if v is not None} for _, row in found]
        assert sorted(map(str, fields)) == sorted(map(str, EXPECTED[layout]))


@pytest.mark.parametrize("layout", TYPED)
def test_our_loaders_give_the_same_and_run_no_file_of_the_dataset(
    layout: str, datasets: dict[str, Converted]
) -> None:
    out = datasets[layout].out
    _, kind = check_typed_dataset(out)
    assert kind == LAYOUTS[layout].kind
    looked = open_looked(out)
    samples = [looked.encodable(index) for index in range(len(looked))]
    names = list(EXPECTED[layout][0])
    sizes = {IMAGES["a.jpg"]: A, IMAGES["b.png"]: B, IMAGES["c.webp"]: C}

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        return sizes.get(value, [3, 24, 32]) if isinstance(value, bytes) else value

    found = [{name: plain(getattr(sample, name)) for name in names} for sample in samples]
    assert found == EXPECTED[layout]
    assert not any(looked.record(index).findings for index in range(len(looked)))


@pytest.mark.parametrize("layout", TYPED)
def test_a_batch_is_made_of_it(layout: str, datasets: dict[str, Converted]) -> None:
    with module(datasets[layout].out, micro_batch_size=1, global_batch_size=1) as data:
        batch = next(data.train_dataloader())
    assert batch["loss_mask"].sum() > 0 and len(batch["media"])


@pytest.mark.parametrize("layout", TYPED)
def test_verify_stats_and_other_workers_know_the_layout(
    layout: str, datasets: dict[str, Converted], tmp_path: Path
) -> None:
    done, again = datasets[layout], tmp_path / "again"
    options = ConvertOptions(layout=layout, shard_count=1, workers=2)  # type: ignore[arg-type]
    convert(done.out.parent / "source.json", done.out.parent / "images", again, options)
    assert files_of(done.out) == files_of(again)
    report = verify(done.out)
    assert report.is_whole, report.findings
    assert report.samples == len(EXPECTED[layout])
    counted = stats(done.out).to_dict()
    assert counted["counted"] == len(EXPECTED[layout])
    (again / ".nv-meta/dataset.yaml").write_bytes(
        b"__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    )
    assert f"describes other samples than those of --layout {layout}" in str(verify(again).findings)


def test_shards_of_neva_hold_what_the_other_layouts_hold(tmp_path: Path) -> None:
    rows = [ONE, WEBP]
    tars = {}
    for layout in ("neva", "captioning", "interleaved"):
        done = convert_in(tmp_path / layout, rows, IMAGES, layout=layout)
        tars[layout] = (done.out / "train-000000.tar").read_bytes()
    assert tars["neva"] == tars["captioning"] == tars["interleaved"]


def test_a_caption_tells_that_its_question_is_left_out(tmp_path: Path) -> None:
    done = convert_in(tmp_path, [ONE, WEBP], IMAGES, layout="captioning")
    assert done.report.repairs["prompt_left_out"] == 1
    assert done.records["000000000"]["conversations"] == ONE["conversations"]


def test_questions_get_the_placeholder_that_was_inserted(tmp_path: Path) -> None:
    bare = record("bare", "a.jpg", conversations=turns("What?", "A."))
    done = convert_in(tmp_path, [bare], IMAGES, layout="vqa", placeholder="insert")
    assert done.records["000000000"]["vqa"] == {"context": "<image>\nWhat?", "answers": "A."}


def test_a_field_of_the_records_own_is_not_replaced(tmp_path: Path) -> None:
    inner = record("inner", "a.jpg", meta={"vqa": 1})
    own = record("own", "a.jpg", vqa={"context": "mine"})
    done = convert_in(tmp_path, [inner, own], IMAGES, layout="vqa")
    assert done.records["000000000"]["meta"] == {"vqa": 1}
    assert [row["reason"] for row in done.rows] == ["field_conflict"]


def test_documents_are_refused_by_conversations(tmp_path: Path) -> None:
    done = convert_in(tmp_path, [ONE, PAGE], IMAGES)
    assert "--layout interleaved" in done.rows[0]["fix"]
    assert done.rows[0]["reason"] == "is_document"


BAD_PAGES = {
    "empty_value": document("x", "First.", "  ", "<image>"),
    "literal_placeholder": document("x", "First <image>.", "<image>"),
    "nul_in_text": document("x", "Fir\0st.", "<image>"),
    "no_text": document("x", "<image>"),
    "placeholder_mismatch": document("x", "<image>", "One.", "<image>"),
}


@pytest.mark.parametrize("reason", BAD_PAGES)
def test_bad_documents_are_told(reason: str, tmp_path: Path) -> None:
    done = convert_in(tmp_path, [PAGE, BAD_PAGES[reason]], IMAGES, layout="interleaved")
    assert [row["reason"] for row in done.rows] == [reason]


def test_a_corrected_record_is_retried_in_its_layout(tmp_path: Path) -> None:
    rows = [ONE, record("gone", "later.jpg")]
    done = convert_in(tmp_path, rows, IMAGES, layout="vqa")
    (tmp_path / "images/later.jpg").write_bytes(IMAGES["a.jpg"])
    report = retry(done.out / "quarantine.jsonl")
    assert (report.samples, report.rejected) == (2, 0)
    assert all("vqa" in row for row in done.records.values())
    assert verify(done.out).is_whole


def test_a_retry_cannot_change_the_layout(tmp_path: Path) -> None:
    done = convert_in(tmp_path, [ONE, PAGE], IMAGES)
    with pytest.raises(ConfigError, match="is of --layout neva, and a dataset has one layout"):
        retry(done.out / "quarantine.jsonl", changes={"layout": "interleaved"})
    assert verify(done.out).is_whole


def test_another_layout_is_another_dataset(tmp_path: Path) -> None:
    convert_in(tmp_path, RECORDS, IMAGES, layout="vqa")
    with pytest.raises(ConfigError, match="another layout"):
        convert(
            tmp_path / "source.json",
            tmp_path / "images",
            tmp_path / "out",
            ConvertOptions(layout="captioning", resume=True),
        )
    with pytest.raises(ConfigError, match="--check header"):
        ConvertOptions(layout="vqa", check="none")


CHANGES: dict[str, Callable[[Path, str], object]] = {
    "another file": lambda file, _: file.write_text(file.read_text() + "\n"),
    "no file": lambda file, _: file.unlink(),
    "another function": lambda _, text: text.replace(":interleaved", ":similarity"),
    "another filter": lambda _, text: text.replace(":part_filter", ":interleaved"),
    "another place": lambda _, text: text.replace(": sample_loader", ": ../sample_loader"),
    "another type": lambda _, text: text.replace("Interleaved", "VQA"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_code_that_is_not_known_is_refused(change: str, tmp_path: Path) -> None:
    out = convert_in(tmp_path, [PAGE], IMAGES, layout="interleaved").out
    described = out / ".nv-meta/dataset.yaml"
    changed = CHANGES[change](out / ".nv-meta" / LOADER_FILE, described.read_text())
    if isinstance(changed, str) and change != "another file":
        assert changed != described.read_text()
        described.write_text(changed)
    assert isinstance(yaml.safe_load(described.read_text()), dict)
    with pytest.raises(ShardError, match="a dataset may not run code"):
        open_looked(out)
