"""Sources of every kind, made of records that may have been changed already."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fuzz_mutate import mutate_rows
from fuzz_rows import DOCUMENTS, IMAGES, ROWS, real_rows

FOLDER = "images"


@dataclass
class Files:
    """What lies in a folder, and how it is converted."""

    source: str
    content: dict[str, bytes]
    images: str | None = FOLDER
    is_lines: bool = False
    records: int | None = None
    """That the source has, where that is known."""
    options: dict[str, Any] = field(default_factory=dict)


_DOCUMENT_LAYOUTS = ("interleaved", "similarity", "neva")
_ODD_COLUMNS: tuple[Any, ...] = ([1, 2, 3], [[1], [], None], ["a", "b", ""], [{"a": 1}] * 3)
_QUESTIONS = "v2_OpenEnded_x_train2014_questions.json"
_ANSWERS = "v2_x_train2014_annotations.json"
Kind = Callable[[Random], Files]


def dump(value: Any, random: Random, **how: Any) -> bytes:
    """JSON, with other characters as they are or escaped."""
    how.setdefault("ensure_ascii", random.random() < 0.5)
    text = json.dumps(value, **how)
    return text.encode("utf-8", "surrogatepass")


def lines(rows: list[Any], random: Random, **how: Any) -> bytes:
    """JSON lines, with one of the usual ends."""
    end = random.choice((b"\n", b"\n", b"\r\n", b"\n\n"))
    return end.join(dump(row, random, **how) for row in rows) + (
        end if random.random() < 0.8 else b""
    )


def _folder() -> dict[str, bytes]:
    return {f"{FOLDER}/{name}": content for name, content in IMAGES.items()}


def rows_of(form: str, random: Random) -> list[Any]:
    """Records of a form, some repeated, mostly changed."""
    if form == "real" and real_rows():
        rows = random.choice(real_rows())
    else:
        rows = ROWS.get(form) or ROWS["llava"]
    copied: list[Any] = json.loads(json.dumps(rows * random.choice((1, 1, 2))))
    mutate_rows(copied, random)
    return copied


def json_kind(form: str) -> Kind:
    def make(random: Random) -> Files:
        rows = rows_of(form, random)
        name, how = "source.json", random.randrange(6)
        if how < 2:
            data = dump(rows, random, indent=random.choice((None, None, 1)))
        elif how < 4:
            name = random.choice(("source.jsonl", "source.json"))
            data = lines(rows, random)
        elif how == 4:
            key = random.choice(("data", "annotations", "train", "records"))
            data = dump({"info": {}, key: rows}, random)
        else:
            data = b"\xef\xbb\xbf" + dump(rows[0] if rows else {}, random)
        files = Files(name, {name: data, **_folder()}, is_lines=2 <= how < 4)
        if form in DOCUMENTS:
            files.options = {"layout": random.choice(_DOCUMENT_LAYOUTS), "check": "header"}
        return files

    return make


def _table_rows(random: Random) -> list[dict[str, Any]]:
    rows: list[Any] = [
        {"image": "a.jpg", "question": "What?", "answer": "A ring.", "id": "1"},
        {"image": "b.png", "question": '<image> Why, "so"?', "answer": "So;\nthat.", "id": "2"},
        {"image": "sub/f.tif", "question": "Wie?", "answer": "Größer 😀", "id": "3"},
    ]
    mutate_rows(rows, random)
    return [row if isinstance(row, dict) else {"image": row} for row in rows] or [
        {"image": "a.jpg"}
    ]


def text_table(random: Random) -> Files:
    rows = _table_rows(random)
    name, mark = random.choice((("s.csv", ","), ("s.tsv", "\t"), ("s.csv", ";")))
    text = io.StringIO()
    names = list(dict.fromkeys(str(key) for row in rows for key in row)) or ["image"]
    if random.random() < 0.3:
        names = [{"question": "prompt", "answer": "caption"}.get(key, key) for key in names]
    writer = csv.writer(text, delimiter=mark)
    writer.writerow(names)
    writer.writerows([[row.get(key, "") for key in row] for row in rows])
    data = text.getvalue().encode("utf-8", "surrogatepass")
    # An empty row is an empty line, which is none.
    records = None if mark == "\t" and _looks_unquoted(rows, names) else sum(map(bool, rows))
    return Files(name, {name: data, **_folder()}, records=records)


def _looks_unquoted(rows: list[dict[str, Any]], names: list[str]) -> bool:
    """Whether a quoted cell over lines may be taken for rows, each with a mark: docs/formats.md."""
    cells = [str(value) for row in rows for value in row.values()]
    has_lines = any("\n" in cell or "\r" in cell for cell in cells)
    return has_lines and (len(names) == 1 or any("\t" in cell for cell in cells))


def parquet(random: Random) -> Files:
    import pyarrow as pa
    import pyarrow.ipc
    import pyarrow.parquet

    names = random.choices(list(IMAGES), k=3)
    how = random.randrange(4)
    columns: dict[str, Any] = {
        "image": [{"bytes": IMAGES[name], "path": name} for name in names],
        "question": ["What?", "<image>Why?", "Wie?"],
        "answer": ["A ring.", "So.", "Größer"],
        "n": [1, None, 3],
    }
    if how == 1:
        columns["image"] = names
    elif how == 2:
        columns = {
            "images": [[image] for image in columns["image"]],
            "conversations": [row["conversations"] for row in ROWS["llava"][:2]] + [[]],
        }
    elif how == 3:
        columns = {"jpg": [IMAGES[name] for name in names], "caption": ["a", None, "c"]}
    for key in list(columns):
        if random.random() < 0.15:
            columns[key][random.randrange(3)] = None
        if random.random() < 0.08:
            columns[random.choice(("image", "text", "messages", "id", "video"))] = columns.pop(key)
        elif random.random() < 0.08:
            columns[key] = random.choice(_ODD_COLUMNS)
    table = pa.table(columns)
    file = io.BytesIO()
    if random.random() < 0.8:
        pyarrow.parquet.write_table(table, file, row_group_size=random.choice((1, 2, 100)))
        return Files("s.parquet", {"s.parquet": file.getvalue(), **_folder()}, None, records=3)
    with pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    state = json.dumps({"_data_files": [{"filename": "data.arrow"}], "_split": None})
    info = json.dumps({"features": {"image": {"_type": "Image"}}})
    saved = {"s/data.arrow": file.getvalue(), "s/state.json": state.encode()}
    return Files("s", {**saved, "s/dataset_info.json": info.encode(), **_folder()}, None, records=3)


def _members(random: Random) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for number, (name, content) in enumerate(list(IMAGES.items())[: random.randrange(1, 5)]):
        key = random.choice((f"{number:05d}", f"x/{number}", f"{number}.y"))
        members[f"{key}.{name.rpartition('.')[2]}"] = content
        if random.random() < 0.8:
            members[f"{key}.txt"] = f"Caption {number}".encode()
        if random.random() < 0.5:
            form = random.choice(("llava", "captions", "vqa", "messages"))
            rows: list[Any] = [json.loads(json.dumps(random.choice(ROWS[form])))]
            mutate_rows(rows, random)
            members[f"{key}.json"] = dump(rows[0] if rows else None, random)
    return members


def tar_bytes(members: dict[str, bytes], random: Random) -> bytes:
    file = io.BytesIO()
    form = random.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(_odd_name(name, random))
            entry.size = len(content)
            if random.random() < 0.03:
                entry.type = random.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE))
                entry.linkname, entry.size = "../../secret.jpg", 0
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def zip_bytes(members: dict[str, bytes], random: Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", random.choice((0, 0, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(_odd_name(name, random)), content)
    return file.getvalue()


def _odd_name(name: str, random: Random) -> str:
    if random.random() < 0.95:
        return name
    odd = ("../", "/", "./", "a" * 120 + "/", "é/", "\x1b[2J", "x/../", "")
    return random.choice(odd) + name


def webdataset(random: Random) -> Files:
    if random.random() < 0.5:
        return Files("s.tar", {"s.tar": tar_bytes(_members(random), random)}, None)
    shards = {f"s/{n:05d}.tar": tar_bytes(_members(random), random) for n in range(2)}
    return Files("s", shards, None)


def archive(random: Random) -> Files:
    name = random.choice(("i.zip", "i.tar"))
    make = zip_bytes if name == "i.zip" else tar_bytes
    prefix = random.choice(("", "", "images/"))
    members = {prefix + key: content for key, content in IMAGES.items()}
    rows = rows_of(random.choice(("llava", "llava", "messages", "captions")), random)
    return Files(
        "source.json", {"source.json": dump(rows, random), name: make(members, random)}, name
    )


def coco(random: Random) -> Files:
    listed = [
        {"id": n, "file_name": name, "width": 9, "height": 9} for n, name in enumerate(IMAGES)
    ]
    said = [{"image_id": n % 6, "id": 90 + n, "caption": f"Caption {n}."} for n in range(8)]
    rows: list[Any] = [{"info": {}, "images": listed, "annotations": said}]
    mutate_rows(rows, random)
    data = dump(rows[0] if rows else {}, random)
    content = {"captions_train2017.json": data, **_folder()}
    return Files("captions_train2017.json", content, records=_length(rows, "annotations"))


def vqav2(random: Random) -> Files:
    asked = [{"image_id": n, "question": f"What {n}?", "question_id": 10 + n} for n in range(4)]
    said = [
        {
            "question_id": 10 + n,
            "image_id": n,
            "multiple_choice_answer": "yes",
            "answers": [{"answer": "yes", "answer_id": 1}],
        }
        for n in range(4)
    ]
    rows: list[Any] = [
        {"data_subtype": "train2014", "questions": asked},
        {"annotations": said},
    ]
    mutate_rows(rows, random)
    both = zip((_QUESTIONS, _ANSWERS), [*rows, {}, {}], strict=False)
    files = {name: dump(row, random) for name, row in both}
    for number, content in enumerate(IMAGES.values()):
        files[f"{FOLDER}/COCO_train2014_{number:012d}.jpg"] = content
    return Files(_QUESTIONS, files, records=_length(rows, "questions"))


def _length(rows: list[Any], name: str) -> int | None:
    """Records of a list that the first of some objects holds."""
    listed = rows[0].get(name) if rows and isinstance(rows[0], dict) else None
    return len(listed) if isinstance(listed, list) else None


def own_reader(random: Random) -> Files:
    rows = rows_of(random.choice(("llava", "llava", "messages")), random)
    options = {"reader": "fuzz_kinds:yield_rows", "format": "auto"}
    content = {"rows.txt": lines(rows, random), **_folder()}
    return Files("rows.txt", content, options=options, records=len(rows))


def yield_rows(path: Path) -> Iterator[Any]:
    """A user's reader, as good as its file; now and then it gives what is no JSON."""
    for line in path.read_bytes().splitlines():
        yield json.loads(line, object_hook=_with_bytes)


def _with_bytes(node: dict[str, Any]) -> dict[str, Any]:
    return {**node, "bytes": b"raw"} if "bytes" in node else node


def meta_file(random: Random) -> Files:
    one, two = (rows_of(random.choice(("llava", "captions", "messages")), random) for _ in range(2))
    entry = {"root": FOLDER, "annotation": "one.jsonl", "repeat_time": 2, "data_augment": False}
    rows: list[Any] = [{"first": entry, "second": {**entry, "annotation": "sub/two.json"}}]
    if random.random() < 0.5:
        mutate_rows(rows, random)
    content = {"meta.json": dump(rows[0] if rows else {}, random)}
    content |= {"one.jsonl": lines(one, random), "sub/two.json": dump(two, random)}
    return Files("meta.json", {**content, **_folder()}, None)


KINDS: dict[str, Kind] = {
    **{form: json_kind(form) for form in (*ROWS, "real")},
    "text table": text_table,
    "parquet": parquet,
    "webdataset": webdataset,
    "archive of images": archive,
    "coco": coco,
    "vqav2": vqav2,
    "own reader": own_reader,
    "meta file": meta_file,
}
"""Name -> what makes a source."""
