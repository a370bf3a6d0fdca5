"""One case of fuzzing `doctor --fix`: a source made of a seed, repaired, and what became of it.

python tests/fuzz_doctor.py SEED     repairs a case, and leaves its files
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from convert_help import read_quarantine, read_samples
from fuzz_case import Fault, Tally, limited
from fuzz_kinds import FOLDER, dump, lines, rows_of
from fuzz_rows import DOCUMENTS, IMAGES, ROWS

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.doctor.doctor import doctor
from neva_prep.dataprep.doctor.report import DoctorReport
from neva_prep.errors import RecordError

_FORMS = ("llava",) * 6 + tuple(sorted(ROWS.keys() - DOCUMENTS - {"wrapped"}))
_SPELLED = {
    "a.jpg": ("A.JPG", "a.jpeg", "x/a.jpg", "./a.jpg", " a.jpg", "a", "/data/images/a.jpg"),
    "b.png": ("b.PNG", "coco\\b.png", "b.jpg", "%62.png"),
    "sub/f.tif": ("f.tif", "Sub/f.TIF", "other/f.tif", "sub\\f.tif"),
}
_NAMES = {"from": ("role",), "value": ("content",), "human": ("user", "Human", " USER"),
          "gpt": ("assistant", "bot"), "conversations": ("messages",),
          "<image>": ("<ImageHere>", "", "<image1>", "<|image|>", "<image><image>")}  # fmt: skip
_MARK = re.compile(r"(<image>|<ImageHere>|<\|image\|>|<image\d+>)\n?")
_SAME = {"user": "human", "assistant": "gpt", "bot": "gpt", "model": "gpt", "chatgpt": "gpt",
         "role": "from", "content": "value", "text": "value",
         "messages": "conversations"}  # fmt: skip


def run_seed(seed: int, folder: Path, tally: Tally, kind: str | None = None) -> None:
    """Make a source of a seed, and repair it.

    Raises:
        Fault: it crashed or hung, lost or changed something, or says what is not so.
    """
    random = Random(f"doctor {seed}")
    form = kind or random.choice(_FORMS)
    tally.cases[form] += 1
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in IMAGES.items():
        (folder / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / FOLDER / name).write_bytes(data)
    source, is_lines = folder / "source.json", random.random() < 0.5
    rows = _rows(form, random)
    source.write_bytes(_text(rows, is_lines, random))
    surplus = random.random() < 0.3
    with limited():
        report = doctor(source, folder / FOLDER, fix=folder / "fixed.json",
                        remove_surplus=surplus)  # fmt: skip
        if report.fixed is None:
            _judge_unread(folder, report)
            tally.errors["unreadable"] += 1
            return
        _judge_bytes(folder, report, is_lines)
        _judge_datasets(folder, report)
        if _is_of_another_form(report):
            tally.errors["of another form"] += 1
            return
        again = doctor(folder / "fixed.json", folder / FOLDER, fix=folder / "again.json",
                       remove_surplus=surplus)  # fmt: skip
        assert again.fixed is not None
        if (folder / "again.json").read_bytes() != (folder / "fixed.json").read_bytes():
            raise Fault(f"finds more to repair in what it repaired: {again.fixed}")
    tally.reasons.update(report.fixed.edits)
    tally.records.update(
        sound=report.records - report.wrong, repaired=report.fixed.repaired, left=report.fixed.left
    )


def _rows(form: str, random: Random) -> list[Any]:
    """Records with what the doctor repairs, and some with what it does not."""
    rows = json.loads(json.dumps(ROWS.get(form) or ROWS["llava"])) * random.choice((1, 2))
    if random.random() < 0.4:
        rows = rows_of(form, random)
    for at, row in enumerate(rows):
        for _ in range(random.choice((0, 0, 1, 2))):
            old, news = random.choice((*_SPELLED.items(), *_NAMES.items()))
            # A form's fields change in one record, its values in one place of it.
            count = -1 if old in ("from", "value") else 1
            told = json.dumps(row).replace(
                json.dumps(old)[1:-1] if old == "<image>" else json.dumps(old),
                (json.dumps(random.choice(news))[1:-1] if old == "<image>"
                 else json.dumps(random.choice(news))), count)  # fmt: skip
            row = json.loads(told)
        if isinstance(row, dict) and random.random() < 0.2:
            row.pop("id", None)
        if isinstance(row, dict) and random.random() < 0.1:
            row["image"] = random.choice(("", " ", [""], []))
        rows[at] = row
    return list(rows)


def _text(rows: list[Any], is_lines: bool, random: Random) -> bytes:
    mark = b"\xef\xbb\xbf" if random.random() < 0.1 else b""
    if not is_lines:
        return mark + dump(rows, random, indent=random.choice((None, 2)))
    text = lines(rows, random)
    if random.random() < 0.2:
        text = text.replace(b"}\n", b"},\n", 2)
    return mark + text


def _parsed(path: Path, is_lines: bool) -> list[Any]:
    """Records of a file, or what stands on its lines; read without the code under test."""
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogatepass")
    found = []
    for line in text.split("\n") if is_lines else ():
        if line.strip():
            plain = line.strip().removeprefix("\ufeff").rstrip(", \t\r")
            try:
                found.append(json.loads(plain))
            except (ValueError, RecursionError):
                found.append(line.strip())
    if is_lines:
        return found
    value = json.loads(text)
    return value if isinstance(value, list) else [value]


def _judge_bytes(folder: Path, report: DoctorReport, is_lines: bool) -> None:
    """Every record is there, in its place, and says what it said."""
    assert report.fixed is not None
    before, after = (_parsed(folder / name, is_lines) for name in ("source.json", "fixed.json"))
    if len(before) != len(after):
        raise Fault(f"{len(before)} records became {len(after)}")
    changed = 0
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if json.dumps(old) == json.dumps(new):
            continue
        changed += 1
        told_old, told_new = (Counter(_leaves(row, index)) for row in (old, new))
        if told_old != told_new:
            lost, more = told_old - told_new, told_new - told_old
            raise Fault(f"record {index} lost {dict(lost)}, got {dict(more)}")
    most = report.fixed.repaired + report.fixed.edits.get("id_added", 0)
    if changed > most:
        raise Fault(f"{changed} records were changed, the report says {report.fixed}")


def _leaves(node: Any, index: int, name: str = "", is_asked: bool = False) -> Iterator[str]:
    """All that a record says, but for names, marks in questions, spelled paths and given ids."""
    if isinstance(node, dict):
        role = str(node.get("from", node.get("role"))).strip().lower()
        for key, value in node.items():
            if not (key == "id" and value in (None, f"{index:09d}")):
                yield f"field {_SAME.get(key, key)}"
                yield from _leaves(value, index, key, _SAME.get(role, role) == "human")
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, index, name)
    elif isinstance(node, str):
        plain = node.strip().lower()
        if name in ("from", "role"):
            yield _SAME.get(plain, plain)
        elif name in ("image", "images", "img_path", "image_path"):
            stem = re.sub(r"\.[a-z]+$", "", re.split(r"[/\\]", plain)[-1].replace("%62", "b"))
            yield f"image {stem}" if stem else "null"
        else:
            yield _MARK.sub("", node) if is_asked else node
    else:
        yield json.dumps(node)


def _judge_unread(folder: Path, report: DoctorReport) -> None:
    """Convert does not read it either, and says the same."""
    if report.readable or ";" not in (report.error or ""):
        raise Fault(f"repaired nothing: {report}")
    try:
        convert(folder / "source.json", folder / FOLDER, folder / "out")
    except RecordError as error:
        if str(error) != report.error:
            raise Fault(f"convert says {error}, the doctor {report.error}") from error
        return
    raise Fault(f"convert reads what the doctor does not: {report.error}")


def _judge_datasets(folder: Path, report: DoctorReport) -> None:
    """Convert takes what was repaired, and gives what was sound as it gave it before."""
    assert report.fixed is not None
    before, after = (_convert(folder, name) for name in ("source.json", "fixed.json"))
    if len(before[0]) != report.records - report.wrong:
        raise Fault(f"convert takes {len(before[0])}, the doctor says {report.wrong} are wrong")
    if after[1] != report.fixed.rejections or after[1].total() != report.fixed.left:
        raise Fault(f"convert rejects {after[1]}, the doctor says {report.fixed}")
    if _is_of_another_form(report):
        return
    if len(after[0]) != len(before[0]) + report.fixed.repaired:
        raise Fault(f"convert took {len(before[0])}, and takes {len(after[0])}: {report.fixed}")
    for key, members in before[0].items():
        if _read(after[0].get(key)) != _read(members):
            raise Fault(f"sample {key} was sound, and is another now")


def _is_of_another_form(report: DoctorReport) -> bool:
    """Whether the report says that what was repaired is read in another way."""
    return any("--format" in way for way in report.ways_out)


def _read(members: dict[str, bytes] | None) -> Any:
    """Members, with the record parsed: an id that is given stands in another place."""
    return members and {**members, "json": json.loads(members["json"])}


def _convert(folder: Path, name: str) -> tuple[dict[str, dict[str, bytes]], Counter[str]]:
    out = folder / name.replace(".json", "")
    convert(folder / name, folder / FOLDER, out)
    return read_samples(out), Counter(row["reason"] for row in read_quarantine(out))


def main() -> None:
    """Repair a case, and leave its files."""
    seed, kind = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    folder = Path(f"fuzz-doctor-{seed}").absolute()
    tally = Tally()
    try:
        run_seed(seed, folder, tally, kind)
    finally:
        print(tally, *sorted(folder.glob("*.json*")), sep="\n")


if __name__ == "__main__":
    main()
