"""One case of fuzzing `diff`: two sides that differ by known edits, and what it says of them.

python tests/fuzz_diff.py SEED     shows a case, and compares its sides
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from convert_help import read_quarantine
from fuzz_case import Fault, Tally, limited
from fuzz_kinds import FOLDER, dump, lines, rows_of
from fuzz_rows import DOCUMENTS, IMAGES, ROWS
from handmade import picture

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.doctor.diff import DiffReport, diff
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.errors import RecordError

_FORMS = sorted(ROWS.keys() - DOCUMENTS - {"video", "preferences", "wrapped"})
_TALKS = ("conversations", "messages", "conversation")
_NOT_SAID = frozenset(("id", "image", "images", "image_path", "img_path", "from", "role"))
_OTHER = picture(13, 11)
_PIECES = ("x", " and more", "\n", "é", "\U0001f600", '"', "\\", " <b>", " 1.10")


@dataclass
class Expected:
    """What a report has to say."""

    changed_in: Counter[str] = field(default_factory=Counter)
    """`said` (in text or fields, as the form has it) and `images` -> rows."""
    changed: set[int] = field(default_factory=set)
    """Places of rows in A; likewise below, of added ones in B."""
    removed: set[int] = field(default_factory=set)
    added: set[int] = field(default_factory=set)


@dataclass
class Side:
    """Rows, each with its place in A or None, and their images."""

    rows: list[tuple[int | None, Any]]
    images: dict[str, bytes]
    is_sound: bool = True
    """Whether each record shows the images that it names."""
    is_escaped: bool = False
    """Whether half a surrogate pair in a text is: as it is, it is no UTF-8, and no record."""


def run_seed(seed: int, folder: Path, tally: Tally, kind: str | None = None) -> None:
    """Make two sides of a seed and compare them.

    Raises:
        Fault: it crashed or hung, or an edit was not told, or something that was none.
    """
    random = Random(f"diff {seed}")
    kind = kind or random.choice(list(KINDS))
    shutil.rmtree(folder, ignore_errors=True)
    tally.cases[kind] += 1
    with limited():
        compared = KINDS[kind](random, folder)
        if compared is None:
            tally.errors["unreadable"] += 1
            return
        report, expected = compared
        _judge(report, expected)
    tally.records["compared"] += report.a.rows + report.b.rows
    tally.reasons.update(report.changed_in)
    tally.reasons.update({"added": report.added, "removed": report.removed})


def _edited_sources(random: Random, folder: Path) -> tuple[DiffReport, Expected]:
    """A source of any form, sound or not, and the same after some edits."""
    is_sound = random.random() < 0.5
    rows = _rows(random, is_sound)
    a = Side(list(enumerate(rows)), dict(IMAGES), is_sound, _has_half_a_pair(rows))
    b, expected = _edit(a, random)
    paths = [_write(side, folder / name, random) for side, name in ((a, "a"), (b, "b"))]
    return _diff(*paths), expected


def _edited_datasets(random: Random, folder: Path) -> tuple[DiffReport, Expected]:
    """The same of sound records, one side or both converted."""
    rows = [json.loads(json.dumps(random.choice(ROWS["llava"]))) for _ in range(7)]
    a = Side(list(enumerate(_with_ids(rows, random, like_keys=False))), dict(IMAGES))
    b, expected = _edit(a, random)
    paths = [_write(side, folder / name, random) for side, name in ((a, "a"), (b, "b"))]
    for number in random.choice(((0,), (1,), (0, 1))):
        # Rows in the order of the source, so that their places are known.
        options = ConvertOptions(shard_count=random.choice((1, 2)))
        out = paths[number].parent / "out"
        report = convert(paths[number], paths[number].parent / FOLDER, out, options)
        if report.rejected:
            raise Fault(f"a sound record was rejected: {read_quarantine(out)}")
        paths[number] = out
    return _diff(*paths), expected


def _converted(random: Random, folder: Path) -> tuple[DiffReport, Expected] | None:
    """A source of any form, and what became of it: only what was rejected is missing.

    None where neither convert nor diff can read it.
    """
    rows = _rows(random, False) if random.random() < 0.5 else rows_of(random.choice(_FORMS), random)
    source = _write(Side(list(enumerate(rows)), dict(IMAGES)), folder / "a", random)
    expected, out = Expected(), folder / "out"
    try:
        options = ConvertOptions(shuffle=1) if random.random() < 0.5 else ConvertOptions()
        report = convert(source, source.parent / FOLDER, out, options)
    except RecordError as refused:
        # Rows that were changed to no rows.
        try:
            unchanged = _diff(source, source)
        except RecordError:
            return None
        if unchanged.a.rows:
            raise Fault(f"reads what convert does not: {refused}") from refused
        return unchanged, expected
    if not report.samples:
        return _diff(source, source), expected
    expected.removed = {row["index"] for row in read_quarantine(out)}
    return _diff(source, out), expected


KINDS: dict[str, Callable[[Random, Path], tuple[DiffReport, Expected] | None]] = {
    "edited sources": _edited_sources,
    "edited datasets": _edited_datasets,
    "source and dataset": _converted,
}
"""Name -> what makes two sides and compares them."""


def _rows(random: Random, is_sound: bool) -> list[Any]:
    form = random.choice(_FORMS)
    rows: list[Any] = json.loads(json.dumps(ROWS[form] * random.choice((1, 2))))
    if not is_sound:
        rows = rows_of(form, random)
    return _with_ids([row for row in rows if isinstance(row, dict)] or [{}], random)


def _with_ids(rows: list[Any], random: Random, like_keys: bool = True) -> list[Any]:
    """An id for each row, by which it is known on both sides, whatever is changed."""
    how = random.choice(("row-{}", "{}", "{:09d}") if like_keys else ("row-{}", "{}"))
    # A row that was repeated is one and the same until here.
    rows = json.loads(json.dumps(rows))
    for number, row in enumerate(rows):
        row["id"] = how.format(number)
    return rows


def _has_half_a_pair(rows: list[Any]) -> bool:
    try:
        json.dumps(rows, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _edit(a: Side, random: Random) -> tuple[Side, Expected]:
    expected = Expected()
    rows: list[tuple[int | None, Any]] = [(n, json.loads(json.dumps(row))) for n, row in a.rows]
    images, apart = dict(a.images), random.sample(range(len(rows)), len(rows))
    # Where rows are of several forms, one more or less can make the source one of another form, and
    # of two that are as frequent the first counts. Nor does each row show the images that it names.
    edits = ("remove", "add", "change", "image") if a.is_sound else ("change",)
    for edit in random.choices(edits, k=random.choice((0, 1, 1, 3))):
        if edit == "add":
            # Of the source's form, and like no other row.
            new = json.loads(json.dumps(random.choice(a.rows)[1]))
            new |= {"id": f"new-{random.random()}", f"new {random.random()}": 1}
            rows.insert(random.randrange(len(rows) + 1), (None, new))
        elif edit == "image":
            images[random.choice(list(images))] = _OTHER
        elif apart:
            at = next(n for n, (place, _) in enumerate(rows) if place == apart[-1])
            if edit == "remove" and len(rows) > 1:
                expected.removed.add(apart.pop())
                del rows[at]
            elif edit == "change":
                _change(rows[at][1], random)
                expected.changed_in["said"] += 1
                expected.changed.add(apart.pop())
    others = [name for name in images if images[name] != a.images[name]]
    shown = {place for place, row in rows if any(_shows(row, name) for name in others)} - {None}
    expected.changed_in["images"] = len(shown)
    expected.changed |= {place for place in shown if place is not None}
    if a.is_sound and random.random() < 0.5:
        random.shuffle(rows)
    expected.added = {at for at, (place, _) in enumerate(rows) if place is None}
    expected.changed_in = +expected.changed_in
    return Side(rows, images, a.is_sound, a.is_escaped), expected


def _change(row: dict[str, Any], random: Random) -> None:
    """Change one text or number of a row, or add a field."""
    places = list(_leaves(row))
    if not places or random.random() < 0.2:
        row[f"added {random.randrange(9)}"] = random.choice((1, "x", False, [0], {"a": 0}))
        return
    at, key = random.choice(places)
    at[key] += random.choice(_PIECES) if isinstance(at[key], str) else 1


def _leaves(row: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Container and key of texts and numbers that are no path, id, role or mark."""
    holders = [row]
    for name in _TALKS:
        turns = row.get(name)
        holders += [turn for turn in turns if isinstance(turn, dict)] if type(turns) is list else []
    for at in holders:
        for key, value in at.items():
            if type(value) in (str, int) and key not in _NOT_SAID:
                yield at, key


def _shows(row: Any, name: str) -> bool:
    return json.dumps(name)[1:-1] in json.dumps(row)


def _write(side: Side, folder: Path, random: Random) -> Path:
    """A source beside its images, in any layout."""
    for name, data in side.images.items():
        (folder / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / FOLDER / name).write_bytes(data)
    rows = [row for _, row in side.rows]
    if side.is_sound and random.random() < 0.3:
        rows = [dict(reversed(row.items())) if isinstance(row, dict) else row for row in rows]
    is_lines = random.random() < 0.5
    path = folder / ("s.jsonl" if is_lines else "s.json")
    how: dict[str, Any] = {"ensure_ascii": True} if side.is_escaped else {}
    if not is_lines:
        how["indent"] = random.choice((None, 1))
    path.write_bytes(lines(rows, random, **how) if is_lines else dump(rows, random, **how))
    return path


def _diff(a: Path, b: Path) -> DiffReport:
    images = [None if path.is_dir() else path.parent / FOLDER for path in (a, b)]
    return diff(a, b, images_a=images[0], images_b=images[1], limit=100)


def _judge(report: DiffReport, expected: Expected) -> None:
    told = {
        "said": sum(bool(row.turns or row.fields) for row in report.changed_rows),
        "images": report.changed_in.get("images", 0),
        "id": report.changed_in.get("id", 0),
    }
    found = Expected(
        +Counter(told),
        {row.index_a for row in report.changed_rows},
        {row.index for row in report.removed_rows},
        {row.index for row in report.added_rows},
    )
    if found != expected:
        raise Fault(f"expected {expected}, diff says {found}")
    counts = (report.changed, report.removed, report.added)
    if counts != (len(found.changed), len(found.removed), len(found.added)):
        raise Fault(f"counts {counts}, rows {found}")
    if report.exit_code != any(counts) or report.unchanged + sum(counts[:2]) != report.a.rows:
        raise Fault(f"does not add up: {report}")
    for row in report.changed_rows:
        if not (row.turns or row.images or row.fields or row.id_a != row.id_b):
            raise Fault(f"row {row.index_a} is changed, but nothing of it is told")


def main() -> None:
    """Show a case and compare its sides."""
    seed, kind = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    folder = Path(f"fuzz-diff-{seed}").absolute()
    tally = Tally()
    try:
        run_seed(seed, folder, tally, kind)
    finally:
        print(tally, *sorted(folder.glob("*/*")), sep="\n")


if __name__ == "__main__":
    main()
