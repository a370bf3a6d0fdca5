"""One case of fuzzing `verify`: a converted dataset, damaged in one place.

python tests/fuzz_verify.py SEED     shows what was damaged, and what verify says
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tarfile
import uuid
from contextlib import closing
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import yaml
from convert_help import record
from fuzz_case import Fault, Tally, limited
from fuzz_kinds import FOLDER
from fuzz_mutate import overwrite_bytes
from fuzz_rows import IMAGES, ROWS

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.verify import verify
from neva_prep.errors import ShardError

_OPTIONS: tuple[dict[str, Any], ...] = (
    {"shard_count": 3},
    {"shard_count": 2, "split": {"train": 0.6, "val": 0.4}, "shuffle": 1},
    {"layout": "vqa", "filter": ["turns < 5"]},
    {"sample_index": False},
)
_COUNTED = ("samples", "images", "image_bytes", "turns", "bytes", "rejected")
_SOURCE = ("name", "format", "bytes", "xxh3_128", "images")
DAMAGES = ("bit", "byte", "bytes", "cut", "longer", "removed", "other file", "members", "rows")


def run_seed(seed: int, folder: Path, tally: Tally, kind: str | None = None) -> None:
    """Damage a dataset in one place, and verify it.

    Raises:
        Fault: verify crashed or hung, or did not find the damage, or not its file.
    """
    random = Random(f"verify {seed}")
    kind = kind or random.choice(DAMAGES)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    out = folder / "out"
    content = _dataset(random.randrange(len(_OPTIONS)), folder)
    _write(content, out)
    if random.random() < 0.02 and not verify(out).is_whole:
        raise Fault(f"finds fault with a whole dataset: {verify(out).findings}")
    name = _damage(kind, content, out, random)
    tally.cases[kind] += 1
    with limited():
        says, said = _says(out, name), _meaning(name, content[name])
        if name == "neva-prep.json" and isinstance(says, list):
            # A total that is not there says nothing wrong: not each writer counts all.
            says[2] = [
                old if new is None else new for new, old in zip(says[2], said[2], strict=True)
            ]
        says_same = says == said
        try:
            report = verify(out)
        except ShardError as error:
            if error.exit_code != 3 or ";" not in str(error):
                raise Fault(f"{name}: error without a way out: {error}") from error
            told = [str(error)]
        else:
            told = [str(finding) for finding in report.findings]
            if report.exit_code != (3 if told else 0):
                raise Fault(f"{name}: exit code {report.exit_code} with {told}")
    if not told and not says_same:
        raise Fault(f"{kind} of {name} was not found")
    # A YAML file may be refused because another reader might take it for something else.
    if told and says_same and not name.endswith(".yaml"):
        raise Fault(f"{kind} of {name} says the same, but is told as {told[:3]}")
    # Where the manifest was damaged, the others disagree with it.
    if told and name != "neva-prep.json" and not any(Path(name).name in line for line in told):
        raise Fault(f"{kind} of {name} is told as {told[:3]}")
    tally.records["found" if told else "says the same"] += 1
    tally.reasons.update([Path(name).suffix if told else f"{Path(name).name} says the same"])


@cache
def _dataset(number: int, folder: Path) -> dict[str, bytes]:
    """Files of a dataset with samples of all kinds and some rejected records."""
    for name, data in IMAGES.items():
        (folder / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / FOLDER / name).write_bytes(data)
    rows = [*ROWS["llava"] * 2, record("lost", "gone.jpg"), record("short", "a.jpg")]
    (folder / "s.json").write_text(json.dumps(rows))
    made = folder / "made"
    convert(folder / "s.json", folder / FOLDER, made, ConvertOptions(**_OPTIONS[number]))
    paths = [path for path in sorted(made.rglob("*")) if path.is_file()]
    # The manifest names the folder: a seed is the same damage in whatever folder.
    here = str(folder).encode()
    return {
        str(path.relative_to(made)): path.read_bytes().replace(here, b"/folder") for path in paths
    }


def _write(content: dict[str, bytes], out: Path) -> None:
    for name, data in content.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)


def _damage(kind: str, content: dict[str, bytes], out: Path, random: Random) -> str:
    """Damage one file; its name."""
    name = random.choice([name for name in content if content[name]])
    if kind == "members":
        name = random.choice([name for name in content if name.endswith(".tar")])
    if kind == "rows" and ".nv-meta/index.sqlite" in content:
        name = ".nv-meta/index.sqlite"
        _change_row(out / name, random)
        return name
    data = content[name]
    at, changed = random.randrange(len(data)), bytearray(data)
    if kind == "byte":
        changed[at] = (changed[at] + random.randrange(1, 256)) % 256
    elif kind == "bytes":
        changed = bytearray(overwrite_bytes(data, random))
    elif kind == "cut":
        del changed[at:]
    elif kind == "longer":
        changed += random.choice((b"\0", b"x", bytes(8), bytes(512), data[:at] or b"y"))
    elif kind == "removed":
        (out / name).unlink()
        return name
    elif kind == "other file":
        other = random.choice([other for other in content if content[other] != data])
        changed = bytearray(content[other])
    elif kind == "members":
        changed = bytearray(_swap_members(data, random))
    else:
        changed[at] ^= 1 << random.randrange(8)
    (out / name).write_bytes(changed)
    return name


def _swap_members(data: bytes, random: Random) -> bytes:
    """Two members of a tar, header and content, in each other's place."""
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        begins = [member.offset for member in tar] + [tar.offset]
    parts = [data[start:stop] for start, stop in pairwise(begins)]
    one, two = random.sample(range(len(parts)), 2)
    parts[one], parts[two] = parts[two], parts[one]
    return b"".join(parts) + data[begins[-1] :]


def _change_row(path: Path, random: Random) -> None:
    with closing(sqlite3.connect(path)) as database:
        table = random.choice(("samples", "sample_parts"))
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        (row,) = database.execute(f"SELECT rowid FROM {table} ORDER BY random() LIMIT 1").fetchone()
        column = random.choice(columns)
        (old,) = database.execute(f"SELECT {column} FROM {table} WHERE rowid=?", (row,)).fetchone()
        new = f"{old}x" if isinstance(old, str) else old + random.choice((1, 512, 1 << 40))
        database.execute(f"UPDATE {table} SET {column}=? WHERE rowid=?", (new, row))
        database.commit()


def _says(out: Path, name: str) -> Any:
    return _meaning(name, (out / name).read_bytes()) if (out / name).exists() else "missing"


def _meaning(name: str, data: bytes) -> Any:
    """All of a file that something else in the dataset says too; what verify has to hold."""
    try:
        if name.endswith("index.sqlite"):
            return _rows(data)
        if name.endswith("quarantine.jsonl"):
            return len([json.loads(line) for line in data.split(b"\n")[:-1]]), data[-1:] == b"\n"
        if name.endswith("index.uuid"):
            return bool(uuid.UUID(data.decode("ascii")))
        if name.endswith(".yaml"):
            found = yaml.safe_load(data.decode())
            return {**found, "exclude": found.get("exclude") or []}
        if name.endswith(".info.json"):
            return list(_strict(data)["shard_counts"].items())
        if name.endswith("neva-prep.json"):
            found = _strict(data)
            counts = [found["report"].get(count) for count in _COUNTED]
            source = [type(found["source"][entry]) for entry in _SOURCE]
            return [
                found["format_version"],
                found["shards"],
                counts,
                source,
                found["options"].get("layout", "neva"),
            ]
    except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError, sqlite3.Error):
        return "broken"
    return data


def _strict(data: bytes) -> Any:
    """JSON without half a surrogate pair, which not every reader takes."""
    found = json.loads(data)
    json.dumps(found, ensure_ascii=False).encode()
    return found


def _rows(data: bytes) -> Any:
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(data)
        sound = database.execute("PRAGMA integrity_check").fetchall()
        return sound, list(database.iterdump())


def main() -> None:
    """Show what was damaged, and what verify says."""
    seed, kind = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    folder = Path(f"fuzz-verify-{seed}").absolute()
    tally = Tally()
    try:
        run_seed(seed, folder, tally, kind)
    finally:
        print(tally)


if __name__ == "__main__":
    main()
