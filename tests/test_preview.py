"""Looking at one sample: found by index, key or id, and shown without trusting its text."""

import io
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from handmade import members, picture, valid_shards, write_dataset, write_source
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.plain_text import plain_text
from neva_prep.dataprep.preview import describe_sample, show_sample
from neva_prep.errors import ConfigError, RecordError, ShardError
from neva_prep.loaders.shard import StoredSample, find_sample

# textual-image uses a method that Pillow will drop one day.
pytestmark = pytest.mark.filterwarnings("ignore:Image.Image.getdata is deprecated")


def shown(sample: StoredSample, **options: object) -> str:
    file = io.StringIO()
    settings = {"width": 100, "legacy_windows": False, "_environ": {}, **options}
    show_sample(sample, Console(file=file, **settings))  # type: ignore[arg-type]
    return file.getvalue()


def test_every_sample_is_found_by_index_key_and_id(tmp_path: Path) -> None:
    source, images = write_source(tmp_path)
    out = tmp_path / "out"
    convert(source, images, out, ConvertOptions(shard_count=4, split={"train": 0.5, "val": 0.5}))
    rows = json.loads(source.read_text())
    seen = set()
    for index in range(12):
        sample = find_sample(out, index=index)
        row = rows[int(sample.key)]
        seen.add(sample.key)
        assert sample.index == index
        assert find_sample(out, key=sample.key) == sample
        assert find_sample(out, key=sample.key.lstrip("0") or "0") == sample
        assert find_sample(out, id=row["id"]) == sample
        assert sample.messages == row["conversations"]
        assert [image.data for image in sample.images] == [
            (images / name).read_bytes() for name in row.get("image", [])
        ]
        tar = (out / sample.shard).read_bytes()
        assert tar[sample.offset :].startswith(f"{sample.key}.".encode())
        for image in sample.images:
            assert tar[image.offset : image.offset + len(image.data)] == image.data
    assert len(seen) == 12
    assert find_sample(out) == find_sample(out, index=0)


def test_a_number_as_id_is_found(tmp_path: Path) -> None:
    shards = {"train-000000.tar": {"000000000": members(0), "000000001": members(1, id=42)}}
    assert find_sample(write_dataset(tmp_path / "ds", shards), id="42").key == "000000001"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ({"index": 7}, "has no sample 7; it has 7, 0 to 6"),
        ({"index": -1}, "has no sample -1"),
        ({"key": "000000009"}, "has no sample with key '000000009'"),
        ({"key": "x' OR 1=1 --"}, "has no sample with key"),
        ({"id": "id-99"}, "has no record with id 'id-99'; was it quarantined"),
        ({"index": 1, "key": "1"}, "give one of --index, --key and --id"),
    ],
)
def test_what_is_not_there_is_a_usage_error(
    name: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = write_dataset(tmp_path / "ds")
    with pytest.raises(ConfigError, match=message):
        find_sample(path, **name)  # type: ignore[arg-type]


def test_a_missing_index_or_shard_says_so(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    (path / "val-000000.tar").unlink()
    with pytest.raises(ShardError, match=r"val-000000.tar: cannot be read .*neva-prep verify"):
        find_sample(path, index=6)
    (path / ".nv-meta/index.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(ShardError, match=r"index.sqlite: cannot be read .*neva-prep verify"):
        find_sample(path, index=0)
    (path / ".nv-meta/index.sqlite").unlink()
    with pytest.raises(ShardError, match=r"index.sqlite: is missing"):
        find_sample(path, index=0)


def test_a_sample_whose_members_do_not_fit_raises_its_key(tmp_path: Path) -> None:
    shards = valid_shards()
    shards["train-000000.tar"]["000000002"].pop(0)
    with pytest.raises(RecordError, match=r"sample 000000002: its record lists 000.jpg"):
        find_sample(write_dataset(tmp_path / "ds", shards), index=2)


def test_without_a_terminal_the_output_is_plain_lines(tmp_path: Path) -> None:
    text = "word " * 60 + "end"
    shards = {"train-000000.tar": {"000000000": members(0, images=2, text=text, score=0.5)}}
    output = shown(find_sample(write_dataset(tmp_path / "ds", shards)))
    assert "\x1b" not in output
    assert "▀" not in output and "▓" not in output
    lines = output.splitlines()
    assert lines[0] == "sample 000000000  id id-0"
    assert lines[1].startswith("train-000000.tar, byte 0: ")
    assert lines[1].endswith(" bytes, 2 images, 2 turns; position 0")
    size = len(picture(32, 24))
    assert f"000.jpg  32 x 24, {size} bytes at byte 512, from pictures/0-000.jpg" in lines
    assert f"  {text}" in lines, "long lines are not wrapped"
    assert "  Answer 0." in lines
    assert "  score: 0.5" in lines
    assert all(line == line.rstrip() for line in lines)


def test_on_a_terminal_pictures_are_drawn_in_coloured_half_blocks(tmp_path: Path) -> None:
    shards = {"train-000000.tar": {"000000000": members(0)}}
    sample = find_sample(write_dataset(tmp_path / "ds", shards))
    output = shown(sample, force_terminal=True, color_system="truecolor")
    rows = [line for line in output.splitlines() if "▀" in line]
    assert 10 <= len(rows) <= 20
    assert {row.count("▀") for row in rows} == {53}  # 32 x 24 pixels in 20 rows of 2 each
    assert "38;2;" in rows[10], "in true colour"
    assert "\x1b[1;36mhuman" in output


def test_without_colour_pictures_are_drawn_in_shades(tmp_path: Path) -> None:
    shards = {"train-000000.tar": {"000000000": members(0)}}
    sample = find_sample(write_dataset(tmp_path / "ds", shards))
    output = shown(sample, force_terminal=True, no_color=True)
    assert "▀" not in output and "▒" in output
    assert "38;2;" not in output and "[36m" not in output


def test_a_tall_picture_stays_within_the_rows(tmp_path: Path) -> None:
    sample = [("000.jpg", picture(20, 4000)), *members(0)[1:]]
    shards = {"train-000000.tar": {"000000000": sample}}
    output = shown(
        find_sample(write_dataset(tmp_path / "ds", shards)), force_terminal=True, color_system="256"
    )
    assert 1 <= sum("▀" in line for line in output.splitlines()) <= 20


def test_a_picture_that_does_not_decode_is_told_not_raised(tmp_path: Path) -> None:
    sample = [("000.jpg", b"\x1b[2Jno image"), *members(0)[1:]]
    shards = {"train-000000.tar": {"000000000": sample}}
    output = shown(find_sample(write_dataset(tmp_path / "ds", shards)))
    assert "000.jpg: is no image of a known format" in output
    assert "Answer 0." in output
    assert "\x1b" not in output


HOSTILE = {
    "clear screen": "\x1b[2J\x1b[H",
    "set the title, or paste from the clipboard": "\x1b]0;owned\x07\x1b]52;c;?\x07",
    "one-byte CSI": "\x9b31m",
    "back over the line": "harmless\r\x08\x08evil",
    "turn the direction round": "\u202egnp.exe\u2066\u2069",
    "invisible letters": "a\u200bb\u2060c\ufeff",
    "tag characters": "\U000e0041\U000e0042",
    "new lines of other kinds": "a\u2028b\u2029c\x0b\x0c\x85",
    "half a character": "\ud800",
    "delete": "\x7f",
}


@pytest.mark.parametrize("trick", HOSTILE)
def test_hostile_text_is_shown_as_escapes(trick: str) -> None:
    safe = plain_text(HOSTILE[trick])
    assert safe.isprintable()
    assert "\\x" in safe or "\\u" in safe or "\\U" in safe


def test_harmless_text_stays_as_it_is() -> None:
    text = "Ünïcode, 一只猫🐱, ناس, 👩\u200d🚀\n\ttabbed [bold]brackets[/bold] :smile: \\x1b"
    assert plain_text(text) == text


@given(st.text())
def test_no_text_leaves_a_character_that_steers_a_terminal(text: str) -> None:
    for character in plain_text(text):
        if character not in "\n\t\u200c\u200d":
            assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    plain_text(text).encode()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_hostile_sample_cannot_steer_the_terminal(tmp_path: Path, terminal: bool) -> None:
    evil = "\x1b]0;owned\x07[red]not red[/red] [link=file:///etc]x[/link] :bomb: \u202etxt"
    image, (name, data) = members(0)
    record = json.loads(data)
    record["id"] = evil
    record["conversations"][0]["value"] = f"<image>{evil}"
    record["conversations"][1].update({"from": evil, "value": evil})
    record["images"][0]["source"] = evil
    record[evil] = {evil: [evil]}
    shards = {"train-000000.tar": {"000000000": [image, (name, json.dumps(record).encode())]}}
    path = write_dataset(tmp_path / "ds", shards)
    output = shown(find_sample(path), force_terminal=terminal, color_system="truecolor", width=500)
    assert "\x1b]" not in output and "\x07" not in output and "\u202e" not in output
    assert output.count("[red]not red[/red] [link=file:///etc]x[/link] :bomb:") == 8
    assert "\\x1b]0;owned\\x07" in output


def test_a_long_field_is_cut_and_counted(tmp_path: Path) -> None:
    shards = {"train-000000.tar": {"000000000": members(0, note="x" * 1_500)}}
    output = shown(find_sample(write_dataset(tmp_path / "ds", shards)))
    assert f"  note: {'x' * 400}... and 1,100 more characters\n" in output


def test_the_sample_as_a_dict_names_every_place(tmp_path: Path) -> None:
    sample = find_sample(write_dataset(tmp_path / "ds"), index=1)
    content = json.loads(json.dumps(describe_sample(sample)))
    record = content.pop("record")
    second = content["images"].pop(1)
    assert content.pop("images")[0]["name"] == "000.jpg"
    assert content == {
        "schema_version": 1,
        "index": 1,
        "key": "000000001",
        "id": "id-1",
        "shard": "train-000000.tar",
        "offset": 2560,
        "bytes": 4096,
    }
    assert second == {
        "name": "001.png",
        "source": "pictures/1-001.png",
        "width": 33,
        "height": 25,
        "bytes": 634,
        "offset": 4608,
    }
    assert record["conversations"] == sample.messages


def test_looking_imports_neither_torch_nor_energon(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    code = (
        "import sys; from rich.console import Console\n"
        "from neva_prep.dataprep.preview import show_sample\n"
        "from neva_prep.loaders.shard import find_sample\n"
        "show_sample(find_sample(sys.argv[1], id='id-4'), Console())\n"
        "assert not {'torch', 'megatron'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)
    assert b"Question 4?" in done.stdout and b"\x1b" not in done.stdout
