"""How two sources or datasets differ: what is matched, what is told, and how it is shown."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_help import Row, record, run_cli, shared, text_record, turns
from handmade import picture
from hypothesis import given
from hypothesis import strategies as st

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.doctor.diff import DiffReport, diff
from neva_prep.dataprep.doctor.diff_detail import text_change
from neva_prep.dataprep.doctor.diff_match import Columns, match
from neva_prep.dataprep.doctor.diff_row import Row as DiffRow
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.errors import NevaPrepError
from neva_prep.loaders.turns import Turn

DATA = shared("data")
TOKENIZER = shared("tokenizers", "llama2-fast")
ROWS = [
    record("a", n=1.5, meta={"x": 1, "y": [2]}),
    record("b", ["good.jpg", "deep/other.png"], conversations=turns("<image><image>", "Two.")),
    text_record("c", "Why is it so?", "Because it is."),
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    (folder / "good.jpg").write_bytes(picture())
    (folder / "copy.jpg").write_bytes(picture())
    (folder / "deep" / "other.png").write_bytes(picture(40, 30, "PNG"))
    return folder


def write(images: Path, name: str, rows: list[Any]) -> Path:
    """A source beside the image folder; lines where its name says so."""
    path = images.parent / name
    lines = "\n".join(json.dumps(row) for row in rows)
    path.write_text(lines if name.endswith(".jsonl") else json.dumps(rows, indent=1))
    return path


def compare(images: Path, a: list[Any], b: list[Any], **given: Any) -> DiffReport:
    sides = write(images, "a.json", a), write(images, "b.jsonl", b)
    return diff(*sides, images_a=images, images_b=images, **given)


def changed(row: Row, **fields: Any) -> Row:
    return {**row, **fields}


def test_layout_order_and_the_order_of_fields_count_for_nothing(images: Path) -> None:
    turned = [dict(reversed(row.items())) for row in reversed(ROWS)]
    report = compare(images, ROWS, turned)
    assert report.is_same and report.unchanged == 3 and report.matched_by["id"] == 3


def test_a_source_and_what_is_made_of_it_are_the_same(images: Path) -> None:
    rows = [*ROWS, text_record("d", id=...), record("e", images=["good.jpg"], image=...)]
    source = write(images, "a.json", rows)
    convert(source, images, images.parent / "out", ConvertOptions(shuffle=3, shard_count=2))
    report = diff(source, images.parent / "out", images_a=images)
    assert report.is_same and report.unchanged == 5
    assert (report.a.images, report.a.image_bytes) == (report.b.images, report.b.image_bytes)
    assert (report.a.kind, report.b.kind) == ("source", "dataset")
    assert report.b.splits == {"train": 5}


def test_rejected_records_are_missing_in_the_dataset(images: Path) -> None:
    source = write(images, "a.json", [*ROWS, record("lost", "gone.jpg")])
    convert(source, images, images.parent / "out")
    report = diff(source, images.parent / "out", images_a=images)
    assert [row.id for row in report.removed_rows] == ["lost"] and report.a.missing_images == 1


def test_each_change_is_told_with_its_place(images: Path) -> None:
    other = [
        changed(ROWS[0], n=2, extra=None),
        changed(ROWS[1], image=["copy.jpg", "good.jpg"]),
        changed(ROWS[2], conversations=turns("Why is it so?", "Because it was.", "And?", "So.")),
        text_record("new", "What else?", "This."),
    ]
    report = compare(images, [*ROWS, text_record("old")], other)
    assert (report.changed, report.added, report.removed, report.unchanged) == (3, 1, 1, 0)
    assert report.changed_in == {"text": 1, "images": 1, "fields": 2}
    fields, pictures, text = report.changed_rows
    assert [(f.name, f.old, f.new) for f in fields.fields] == [
        ("extra", None, "null"),
        ("n", "1.5", "2"),
    ]
    (image,) = pictures.images  # The first has another path and the same bytes.
    assert image.number == 1 and (image.old or "").startswith("40 x 30 png")
    assert (image.new or "").startswith("32 x 24 jpg")
    assert [f.name for f in pictures.fields] == ["image"]
    answer, *added = text.turns
    assert (answer.number, answer.text.old, answer.text.new) == (1, "is.", "was.")
    assert [(turn.old_role, turn.new_role) for turn in added] == [(None, "human"), (None, "gpt")]


def test_moves_between_splits_are_counted_and_shown(images: Path) -> None:
    source = write(images, "a.json", [text_record(str(n)) for n in range(40)])
    for seed, share in enumerate((0.5, 0.9)):
        split = {"train": share, "val": 1 - share}
        convert(source, images, images.parent / f"out{seed}", ConvertOptions(split=split))
    report = diff(images.parent / "out0", images.parent / "out1")
    assert report.changed == 0 and report.unchanged == 40 and not report.is_same
    assert list(report.moved) == ["val -> train"]
    assert report.moved["val -> train"] == len(report.changed_rows[:40]) == sum(
        row.split_a == "val" and row.split_b == "train" for row in report.changed_rows
    )  # fmt: skip


def test_repeated_ids_are_matched_by_content_and_then_in_order(images: Path) -> None:
    a = [text_record("x", "Why?", answer) for answer in ("1", "2", "3")]
    b = [text_record("x", "Why?", answer) for answer in ("3", "4", "2", "5")]
    report = compare(images, a, b)
    assert report.matched_by == {"id": 0, "repeated_id": 3, "content": 0}
    assert (report.unchanged, report.changed, report.added) == (2, 1, 1)
    (row,) = report.changed_rows
    assert (row.turns[0].text.old, row.turns[0].text.new) == ("1", "4")


def test_rows_without_id_are_matched_by_content(images: Path) -> None:
    a = [text_record("", "Why?", str(n), id=...) for n in range(4)]
    report = compare(images, a, [*a[1:], a[1]])
    assert report.matched_by == {"id": 0, "repeated_id": 0, "content": 3}
    assert (report.removed, report.added, report.changed) == (1, 1, 0)


def test_a_row_with_another_id_is_changed_and_not_replaced(images: Path) -> None:
    report = compare(images, ROWS, [changed(ROWS[0], id="z"), *ROWS[1:]])
    assert (report.changed, report.removed, report.added) == (1, 0, 0)
    assert report.changed_in == {"id": 1}
    assert (report.changed_rows[0].id_a, report.changed_rows[0].id_b) == ("a", "z")


def test_other_forms_and_broken_rows_are_compared_as_they_are(images: Path) -> None:
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": [{"a": 1}]}]
    a = [{"id": 1, "messages": chat}, 7, "text", ["list"]]
    report = compare(images, a, [{"id": 1, "messages": [chat[0]]}, 7, "text", {"id": "\ud800"}])
    assert (report.unchanged, report.changed, report.removed, report.added) == (2, 1, 1, 1)
    assert report.changed_rows[0].turns[0].old_role == "assistant"
    json.dumps(report.to_dict())


Ids = st.sampled_from(["a", "b", "c", None])
Sides = st.lists(st.tuples(Ids, st.sampled_from(["x", "y", "z"])), max_size=8)


@given(Sides, Sides)
def test_every_row_is_matched_once_or_told(left: Any, right: Any) -> None:
    tables = []
    for side in (left, right):
        columns = Columns()
        for index, (identity, text) in enumerate(side):
            columns.add(DiffRow(index, identity, None, [Turn(role="human", value=text)], [], {}))
        tables.append(columns.table())
    found = match(*tables)
    assert sorted([*found.pairs.a, *found.removed]) == list(range(len(left)))
    assert sorted([*found.pairs.b, *found.added]) == list(range(len(right)))
    assert sum(found.by.values()) == len(found.pairs)
    for at_a, at_b in zip(found.pairs.a.tolist(), found.pairs.b.tolist(), strict=True):
        same_id = left[at_a][0] == right[at_b][0] is not None
        assert same_id or left[at_a][1] == right[at_b][1]
    # Nothing that stays alone on both sides could have been matched.
    alone = ([side[at] for at in places.tolist()] for side, places in
             ((left, found.removed), (right, found.added)))  # fmt: skip
    removed, added = alone
    assert not {text for _, text in removed} & {text for _, text in added}
    assert not {i for i, _ in removed if i} & {i for i, _ in added if i}


def test_a_row_costs_tens_of_bytes(images: Path) -> None:
    columns = Columns()
    for index in range(1000):
        columns.add(DiffRow(index, str(index), "train", [], [], {}))
    table = columns.table()
    arrays = (table.ids, table.named, table.parts, table.split)
    assert sum(array.nbytes for array in arrays) == 43 * 1000
    assert np.unique(table.ids, axis=0).shape == (1000, 2)


@given(st.text(), st.text(), st.text(max_size=60))
def test_a_text_change_keeps_all_that_differs(old: str, new: str, shared_text: str) -> None:
    change = text_change(old + shared_text, new + shared_text)
    cut = change.before.startswith("...") or change.after.endswith("...")
    if not cut and len(old + new + shared_text) < 300:
        for text, part in ((old, change.old), (new, change.new)):
            whole = change.before + part + change.after
            assert whole == (text + shared_text).encode("utf-8", "backslashreplace").decode()


def test_a_megabyte_of_text_is_compared_at_once(images: Path) -> None:
    words = random.Random(0).choices(["cat", "dog", "mat"], k=300_000)
    other = [*words[:1000], "hat", *words[1000:]]
    report = compare(
        images, [text_record("a", " ".join(words))], [text_record("a", " ".join(other))]
    )
    (turn, _) = (*report.changed_rows[0].turns, None)
    assert turn is not None and "hat" in turn.text.new and len(turn.text.new) < 1000


@pytest.mark.skipif(TOKENIZER is None, reason="needs ../shared/tokenizers beside the checkout")
def test_tokens_and_what_is_trained_are_counted(images: Path) -> None:
    from neva_prep.dataprep.stats.tokens import Tokenizing
    from neva_prep.templates.encode import encode_conversation
    from neva_prep.templates.library import get_template
    from neva_prep.templates.load import load_tokenizer

    how = Tokenizing(tokenizer=load_tokenizer(TOKENIZER or ""), template=get_template("v1"))
    report = compare(images, ROWS, ROWS[1:], tokenizing=how)
    samples = [
        encode_conversation(row["conversations"], tokenizer=how.tokenizer, template=how.template)
        for row in ROWS
    ]
    texts = [len(sample.tokens) - sample.num_images for sample in samples]
    trained = [sample.num_trained for sample in samples]
    assert (report.a.tokens, report.a.trained) == (sum(texts), sum(trained))
    assert (report.b.tokens, report.b.trained) == (sum(texts[1:]), sum(trained[1:]))


def test_exit_code_and_output_are_those_of_diff(images: Path) -> None:
    a, b = write(images, "a.json", ROWS), write(images, "b.json", [*ROWS[:2], text_record("d")])
    folders = ("--images-a", images, "--images-b", images)
    same = run_cli("diff", a, a, *folders)
    assert same.returncode == 0 and "The same: 3 rows" in same.stdout and same.stderr == ""
    other = run_cli("diff", a, b, *folders)
    assert other.returncode == 1
    lines = other.stdout.splitlines()
    assert "- record 2  id c: Why is it so?" in lines and "+ record 2  id d: Why?" in lines
    assert lines[-1] == "Different: 0 changed, 1 removed, 1 added, 2 unchanged."
    told = json.loads(run_cli("diff", a, b, *folders, "--json").stdout)
    assert (told["schema_version"], told["is_same"], told["removed"]) == (1, False, 1)
    few = run_cli("diff", a, b, *folders, "--limit", "0").stdout
    assert "... and 1 more removed" in few and "record 2" not in few


def test_what_cannot_be_read_is_an_error_and_no_difference(images: Path) -> None:
    a = write(images, "a.json", ROWS)
    (images / "broken.json").write_text("[{]")
    convert(a, images, images.parent / "out")
    (shard,) = (images.parent / "out").glob("*.tar")
    shard.write_bytes(shard.read_bytes()[:3000])
    wrong = {images / "broken.json": "byte 2", images: "finished", shard.parent: "verify"}
    for other, says in wrong.items():
        with pytest.raises(NevaPrepError, match=says) as caught:
            diff(a, other, images_a=images)
        assert caught.value.exit_code == 3
    assert run_cli("diff", a, a, "--template", "v1").returncode == 2


HOSTILE = "\x1b[2J\x1b]0;owned\x07 [red]markup[/red] \u202ebidi <script>alert(1)</script>"


def test_hostile_texts_reach_the_terminal_spelled_out(images: Path) -> None:
    row = text_record("same", HOSTILE, HOSTILE, **{HOSTILE: HOSTILE})
    other = {**row, "conversations": turns(HOSTILE + " b", "c"), HOSTILE: "d"}
    a = write(images, "a.json", [row, record(HOSTILE, HOSTILE), text_record("x", HOSTILE)])
    b = write(images, "b.json", [other, record(HOSTILE, "good.jpg")])
    done = run_cli("diff", a, b, "--images-a", images, "--images-b", images)
    assert done.returncode == 1 and "[red]markup[/red]" in done.stdout
    assert not set("\x1b\x07\u202e") & set(done.stdout + done.stderr)


@pytest.mark.skipif(DATA is None, reason="needs ../shared/data beside the checkout")
def test_a_real_source_differs_from_its_half_and_not_from_itself(tmp_path: Path) -> None:
    source = (DATA or Path()) / "llava-instruct-100" / "llava_instruct_100.json"
    rows = json.loads(source.read_text())
    (tmp_path / "half.jsonl").write_text("\n".join(json.dumps(row) for row in rows[::2]))
    assert diff(source, source).is_same
    report = diff(source, tmp_path / "half.jsonl")
    assert (report.removed, report.changed, report.unchanged) == (50, 0, 50)


def test_what_the_layout_vqa_adds_is_no_difference(images: Path, tmp_path: Path) -> None:
    source = write(images, "a.json", ROWS[:1])
    convert(source, images, tmp_path / "vqa", ConvertOptions(layout="vqa"))
    convert(source, images, tmp_path / "neva", ConvertOptions(layout="neva"))
    assert diff(source, tmp_path / "vqa", images_a=images).is_same
    assert diff(tmp_path / "neva", tmp_path / "vqa").is_same
